"""The thread that runs the model: batches by shape, turns, and rows that are no longer wanted."""

import queue
import threading

import pytest

from tests.decode.tiny import PROMPTS, VOCAB, built
from tlx.decode.generate import generate
from tlx.decode.pieces import TextPieces
from tlx.decode.rows import RowDecoder, RowRequest
from tlx.decode.sampling import Sampling
from tlx.serve import engine as engines
from tlx.serve.engine import Engine, Event, Job

GREEDY = Sampling(temperature=0)


def text(tokens):
    return "".join(chr(0x4E00 + token) for token in tokens)


class Caller:
    """Jobs and what is said of them."""

    def __init__(self):
        self.events = queue.Queue()
        self.jobs = []

    def job(self, prompt, max_tokens=12, stop=(), sampling=GREEDY, **more):
        number = len(self.jobs)
        row = RowRequest(prompt, max_tokens, sampling, **more)
        job = Job(row, TextPieces(text, stop), lambda event: self.events.put((number, event)))
        self.jobs.append(job)
        return job

    def finish(self):
        """(text, why it ended, number of tokens) of each job."""
        ends = {}
        texts = [""] * len(self.jobs)
        while len(ends) < len(self.jobs):
            number, event = self.events.get(timeout=120)
            texts[number] += event.text
            if event.finish:
                ends[number] = (texts[number], event.finish, event.num_tokens)
        return [ends[number] for number in range(len(self.jobs))]


@pytest.fixture
def model():
    return RowDecoder(*built(), VOCAB, 64)


@pytest.fixture
def engine(model):
    running = Engine(model, window=0.05)
    yield running
    running.close()


def greedy(model, prompt, max_tokens=12):
    return generate(model.lm, model.params, [prompt], VOCAB, max_tokens=max_tokens, sampling=GREEDY)[0]


@pytest.mark.slow
def test_requests_within_a_window_are_a_batch_for_each_shape(model, engine):
    caller = Caller()
    jobs = [caller.job(prompt) for prompt in PROMPTS] + [caller.job(PROMPTS[0], 3)]
    engine.submit(jobs)
    expected = [greedy(model, prompt) for prompt in PROMPTS] + [greedy(model, PROMPTS[0], 3)]
    assert caller.finish() == [(text(new), "length", len(new)) for new in expected]
    assert engine.num_batches == 2  # one prompt is longer than 16 tokens
    engine.submit([caller.job(PROMPTS[1])])
    assert caller.events.get(timeout=60)[0] == len(jobs)


@pytest.mark.slow
def test_a_stop_string_ends_a_row_and_the_others_go_on(model, engine):
    new = greedy(model, PROMPTS[0])
    caller = Caller()
    engine.submit([caller.job(PROMPTS[0], stop=(text(new[4:6]),)), caller.job(PROMPTS[0])])
    assert caller.finish() == [(text(new[:4]), "stop", 6), (text(new), "length", 12)]


def test_the_end_of_a_text_is_a_stop():
    lm, params = built()
    new = greedy(RowDecoder(lm, params, VOCAB, 64), PROMPTS[0])
    end = next(token for index, token in enumerate(new) if index > 2 and token not in new[:index])
    import dataclasses

    engine = Engine(RowDecoder(lm, params, dataclasses.replace(VOCAB, eos=end), 64))
    caller = Caller()
    engine.submit([caller.job(PROMPTS[0])])
    count = new.index(end)
    assert caller.finish() == [(text(new[:count]), "stop", count)]
    engine.close()


def test_a_cancelled_row_ends_at_the_next_chunk(model, monkeypatch):
    batches = []
    monkeypatch.setattr(engines.Batch, "advance", _counted(engines.Batch.advance, batches))
    engine = Engine(model)
    caller = Caller()
    first = caller.job(PROMPTS[0], 40)
    first.emit = lambda event: setattr(first, "is_cancelled", True)
    engine.submit([first])
    second = caller.job(PROMPTS[1], 4)
    engine.submit([second])
    while caller.events.get(timeout=60)[1].finish is None:
        pass
    engine.close()
    assert not first.is_finished and 0 < len(first.pieces.tokens) < 40
    assert second.is_finished and not engine._batches


def _counted(method, calls):
    def advance(self):
        calls.append(self)
        return method(self)

    return advance


def test_a_defect_is_told_and_the_next_request_is_answered(model, monkeypatch, caplog):
    engine = Engine(model)
    begin = RowDecoder.begin
    monkeypatch.setattr(RowDecoder, "begin", lambda *given: (_ for _ in ()).throw(MemoryError("full")))
    caller = Caller()
    engine.submit([caller.job(PROMPTS[0])])
    assert caller.finish() == [("", "error", 0)]
    assert "MemoryError: full" in caplog.text
    monkeypatch.setattr(RowDecoder, "begin", begin)
    engine.submit([caller.job(PROMPTS[0], 3)])
    assert caller.events.get(timeout=60)[1] != Event(finish="error")
    engine.close()
    assert not any(thread.name == "tlx-serve" for thread in threading.enumerate())
