"""The loop and its hooks: a run in two halves writes what a run in one does, and stops when it must."""

import io
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.toy import Toy, batch_at
from tlx.training import hooks, loop
from tlx.training.clock import Clock
from tlx.training.config import EvalConfig, LogConfig, TrainConfig
from tlx.training.divergence import Diverged, SkipHook
from tlx.training.journal import Journal, read_lines
from tlx.training.loop import train
from tlx.training.progress import Progress
from tlx.training.state import init_state
from tlx.training.step import make_step

pytestmark = pytest.mark.jax_versions

COSTS = hooks.Costs(48, 1000, 1e9)
TIMED = ("tokens_per_s", "flops_per_s", "peak_share")


@pytest.fixture(scope="module")
def parts():
    module, schedule = Toy(), optax.constant_schedule(1e-2)
    optimizer = optax.adamw(schedule)
    step = jax.jit(make_step(module, optimizer, schedule, TrainConfig()), donate_argnums=0)
    return step, lambda: init_state(module, optimizer, batch_at(0), 8, seed=1)


def batches(first, bad=()):
    k = first
    while True:
        batch = batch_at(k)
        batch["tokens"][0, 0] = 99 if k in bad else batch["tokens"][0, 0]
        yield batch
        k += 1


def run(parts, state, steps, folder, bad=(), log=None, extra=(), costs=COSTS, **config):
    step, _ = parts
    config = TrainConfig(steps=40, **config)
    clock, stream = Clock(), io.StringIO()
    journal, progress = Journal(folder), Progress(40, stream)
    journal.resume(steps[0] - 1)
    log = log or LogConfig(every=3, print_every=9)
    log_hook = hooks.LogHook(log, config, costs, journal, (), progress, clock)
    skips = SkipHook(config, journal, progress)
    made = [make(log_hook, journal, progress, clock) for make in extra]
    state = train(step, state, batches(steps[0] - 1, bad), steps, [skips, log_hook, *made], clock)
    skips.finish(state)
    log_hook.finish()
    return state, stream.getvalue()


def deterministic(folder):
    lines = read_lines(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


def test_two_halves_are_one(parts, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, text = run(parts, parts[1](), range(1, 41), tmp_path / "one")
    half, _ = run(parts, parts[1](), range(1, 27), tmp_path / "two")
    half = jax.device_get(half)
    run(parts, half, range(27, 33), tmp_path / "two")  # killed at 32, resumed from 26
    two, _ = run(parts, half, range(27, 41), tmp_path / "two")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(two))
    assert deterministic(tmp_path / "one") == deterministic(tmp_path / "two")
    assert [line["step"] for line in deterministic(tmp_path / "one")] == [*range(3, 41, 3), 40]
    assert text.count("tokens/s") == 5 and "step 40/40" in text


def test_skips_are_told_and_too_many_end_the_loop(parts, tmp_path):
    """Counted at every step, whatever the lines of the log."""
    log = LogConfig(every=40, print_every=40)
    state, text = run(parts, parts[1](), range(1, 41), tmp_path, bad=(4, 5), log=log)
    events = [event for event in read_lines(tmp_path / "events.jsonl") if event["event"] == "skip"]
    assert [(event["step"], event["new"]) for event in events] == [(6, 2)]
    assert [event["total"] for event in events] == [2]
    assert "2 update(s) skipped: loss or gradient not finite" in text and int(state.skipped) == 2
    for most in (1, 2, 3, 6):
        with pytest.raises(Diverged) as caught:
            run(parts, parts[1](), range(1, 41), tmp_path, bad=range(3, 40), log=log, max_skipped=most)
        assert (caught.value.divergence.first, caught.value.divergence.step) == (4, 3 + most)
        # The loop went no further, but for steps that were on their way before the first was known to be skipped.
        assert int(caught.value.state.step) == max(3 + most, 6)


def test_no_speed_is_above_that_of_the_devices(parts, tmp_path):
    """At every step too, right after the first step and after an evaluation, when steps are in flight."""
    step = parts[0]
    seconds = 0.03

    def slow(x):
        time.sleep(seconds)
        return x

    def slow_step(state, batch):
        state, metrics = step(state, batch)
        loss = jax.pure_callback(slow, jax.ShapeDtypeStruct((), jnp.float32), metrics["loss"])
        return state, metrics | {"loss": loss}

    def evaluating(log_hook, journal, progress, clock):
        config = EvalConfig(every=4, batches=3)
        return hooks.eval_hook(config, lambda state, n: {"loss": 0.0}, log_hook, [journal], progress, clock)

    log = LogConfig(every=1, print_every=1)
    slow_parts = (jax.jit(slow_step, donate_argnums=0), parts[1])
    costs = hooks.Costs(48, 1000, 1000 / seconds)
    _, text = run(slow_parts, parts[1](), range(1, 11), tmp_path, log=log, extra=[evaluating], costs=costs)
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if "tokens_per_s" in line]
    assert len(lines) == 9 and max(line["tokens_per_s"] for line in lines) <= 48 / seconds
    assert max(line["peak_share"] for line in lines) <= 1
    shares = [int(share) for share in re.findall(r"\((\d+)% of peak\)", text)]
    assert len(shares) == 9 and max(shares) <= 100


def test_evaluation_is_written_and_shown(parts, tmp_path):
    def evaluating(log_hook, journal, progress, clock):
        config = EvalConfig(every=20, batches=3)
        return hooks.eval_hook(
            config, lambda state, n: {"loss": float(n)}, log_hook, [journal], progress, clock
        )

    _, text = run(parts, parts[1](), range(1, 41), tmp_path, extra=[evaluating])
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if line["kind"] == "validation"]
    assert [(line["step"], line["loss"]) for line in lines] == [(20, 3.0), (40, 3.0)]
    assert "step 20  validation: loss 3.0000" in text


class Shard:
    """A device's part of a metric: never there, there, or without the memory for it."""

    def __init__(self, state):
        self.state = state
        self.data = self

    def is_ready(self):
        return self.state != "waiting"

    def block_until_ready(self):
        assert self.state != "waiting", "the loop waits for ever"
        if self.state == "failed":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


def test_a_device_without_memory_is_noticed_though_others_wait_for_it():
    class Loss:
        addressable_shards = [Shard("waiting"), Shard("there"), Shard("failed")]

    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        loop._raise_error_of_any_device({"loss": Loss})
    Loss.addressable_shards = [Shard("there")] * 3
    loop._raise_error_of_any_device({"loss": Loss})


@pytest.mark.slow
def test_profile_writes_a_trace(parts, tmp_path):
    def profiling(log_hook, journal, progress, clock):
        return hooks.ProfileHook(TrainConfig(profile_steps=(2, 4)), str(tmp_path / "trace"), progress)

    _, text = run(parts, parts[1](), range(1, 9), tmp_path, extra=[profiling])
    assert "trace of 2 steps up to step 4" in text
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
