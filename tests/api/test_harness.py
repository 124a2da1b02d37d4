"""tlx under the lm-evaluation-harness beside the harness's own Hugging Face model, on the same weights.

Wants lm-eval, torch and transformers; tasks and records are made on the spot, and nothing is fetched.
"""

import json

import numpy as np
import pytest

import tlx
from tests.hub import folders
from tests.run_directory import write_run
from tlx.base.errors import ConfigError
from tlx.cli import main
from tlx.training.journal import read_lines

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'tlx-lm[harness]'")

LENGTH, MOST = 48, 12  # tokens of a text, and of an answer
TEXTS = [
    "the cat sat on the mat",
    "Über 3 Katzen, 고양이",
    "import os\nprint('x')\n",
    "a dog and a cat",
    "on the mat the",
]
_DATA = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}, cache_dir: {cache}}}
test_split: test
training_split: train
fewshot_split: train
"""
_TASKS = {
    "choices": """
task: choices
output_type: multiple_choice
doc_to_text: "{{q}} is"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "texts": """
task: texts
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{long}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
""",
    "answers": """
task: answers
output_type: generate_until
doc_to_text: "{{long}}"
doc_to_target: "{{q}}"
generation_kwargs: {until: ["at", "o "], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: bypass}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The folder of three tasks, one for each kind of request."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {
            "q": text,
            "choices": [" a cat", " the mat on", "x"],
            "label": i % 3,
            "long": " ".join(TEXTS[i:] * 4),
        }
        for i, text in enumerate(TEXTS)
    ]
    (folder / "records.json").write_text("\n".join(map(json.dumps, rows)))
    for name, text in _TASKS.items():
        (folder / f"{name}.yaml").write_text(
            text + _DATA.format(data=folder / "records.json", cache=folder / "cache")
        )
    return folder


def evaluated(model, folder, monkeypatch, shots, chat=False):
    """{task: (figures, answers to its requests in order)} of the harness."""
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    found = lm_eval.simple_evaluate(
        model, tasks=list(_TASKS), num_fewshot=shots, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        apply_chat_template=chat, fewshot_as_multiturn=chat,
    )  # fmt: skip
    samples = {
        name: [row["resps"] for row in sorted(found["samples"][name], key=lambda row: row["doc_id"])]
        for name in _TASKS
    }
    return found["results"], samples


def gpt2(torch, transformers, folder):
    folders.byte_pairs(folder)
    config = transformers.GPT2Config(
        vocab_size=304, n_embd=32, n_layer=2, n_head=4, n_positions=LENGTH, initializer_range=0.3
    )
    return transformers.GPT2LMHeadModel(config)


def t5(torch, transformers, folder):
    config = transformers.T5Config(
        vocab_size=304, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, n_positions=LENGTH,
        initializer_factor=2.0, **folders.with_end(folder),
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("make", "shots", "chat"),
    [(gpt2, 0, False), (gpt2, 2, False), (gpt2, 1, True), (t5, 0, False)],
    ids=["gpt2", "gpt2 shots", "gpt2 chat", "t5"],
)
def test_every_answer_is_that_of_the_original(make, shots, chat, tasks, tmp_path, monkeypatch):
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    from lm_eval.models.huggingface import HFLM

    from tlx.api.harness import HarnessModel

    torch.manual_seed(0)
    model = make(torch, transformers, tmp_path).eval()
    model.save_pretrained(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"),
        **json.loads((tmp_path / "special_tokens_map.json").read_text()),
    )
    theirs = HFLM(model, tokenizer=tokenizer, device="cpu", max_length=LENGTH, batch_size=1)
    tokenizer.chat_template = CHATML
    ours = HarnessModel(tlx.load(tmp_path), max_length=LENGTH, template="chatml")
    if theirs.backend == "seq2seq":  # where their limit is that of the answer and its context together
        generated = theirs._model_generate
        theirs._model_generate = lambda context, max_length, **rest: generated(context, 1 + MOST, **rest)
    both = (evaluated(lm, tasks, monkeypatch, shots, chat) for lm in (ours, theirs))
    (figures, answers), (wanted, known) = both
    for name in ("choices", "texts"):
        for one, other in zip(answers[name], known[name], strict=True):
            numbers = [np.asarray(resps, np.float64).ravel() for resps in (one, other)]
            np.testing.assert_allclose(*numbers, rtol=2e-5)
    assert answers["answers"] == known["answers"]
    lengths = {len(row[0][0]) for row in answers["answers"]}
    assert len(lengths) > 1
    for name in ("choices", "texts"):
        for metric, value in wanted[name].items():
            if isinstance(value, float):
                assert figures[name][metric] == pytest.approx(value, rel=1e-4), metric
    assert 0 <= figures["choices"]["acc,none"] <= 1


def test_conversations(tmp_path):
    from tlx.api.harness import HarnessModel

    lm = tlx.load(write_run(tmp_path / "clm", "clm"))
    model, vocab, encode = HarnessModel(lm, template="words"), lm.tokenizer.vocab, lm.tokenizer.encode
    said = [{"role": "user", "content": " a"}, {"role": "assistant", "content": "b"}]
    text = model.apply_chat_template([*said, {"role": "user", "content": "c"}])
    turns = ("User: a\nAssistant: b", "\nUser: c\nAssistant:")
    assert model.tok_encode(text) == [vocab.bos, *encode(turns[0]), vocab.eos, *encode(turns[1])]
    begun = model.apply_chat_template(said, add_generation_prompt=False)
    assert model.tok_encode(begun) == [vocab.bos, *encode(turns[0])]
    assert "User: " in model.chat_template(True) and model.chat_template() is None
    with pytest.raises(ConfigError, match="not tuned on conversations"):
        HarnessModel(lm).apply_chat_template(said)


def test_what_tlx_trained_reads_what_it_was_trained_with(tmp_path):
    from lm_eval.api.instance import Instance

    from tlx.api.harness import HarnessModel

    lm = tlx.load(write_run(tmp_path / "clm", "clm"))
    model, vocab = HarnessModel(lm), lm.tokenizer.vocab
    assert model.tok_encode("a") == [vocab.bos, *lm.tokenizer.encode("a")]
    asked = [Instance("loglikelihood", {}, ("ab", text), 0) for text in (" c", " de")]
    scores = lm.choose("ab", [" c", " de"]).scores
    found = model.loglikelihood(asked, disable_tqdm=True)
    np.testing.assert_allclose([value for value, _ in found], [s.log_likelihood for s in scores], rtol=1e-5)
    (text,) = model.generate_until(
        [Instance("generate_until", {}, ("ab", {"until": "\n", "max_gen_toks": 6}), 0)]
    )
    assert text == lm.generate("ab", 6, temperature=0.0, stop=("\n",))
    with pytest.raises(ConfigError, match="'untl'.*did you mean 'until'"):
        model.generate_until([Instance("generate_until", {}, ("ab", {"untl": "\n"}), 0)])
    with pytest.raises(ConfigError, match="leaves no room in the 40"):
        model.generate_until([Instance("generate_until", {}, ("ab", {"max_gen_toks": 40}), 0)])
    with pytest.raises(ConfigError, match="decoders and encoder-decoders, this is encoder"):
        HarnessModel(tlx.load(write_run(tmp_path / "mlm", "mlm")))


def test_the_command_prints_figures_and_writes_every_answer(tasks, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    run, file = write_run(tmp_path / "run", "clm"), tmp_path / "answers.jsonl"
    words = ["evaluate", str(run), f"--tasks={tasks}", f"--predictions={file}", "--limit=2"]
    assert main([*words, "--harness=choices,answers"]) == 0
    out = capsys.readouterr().out
    assert "choices: 2 questions, 0 shots" in out and "  acc  " in out
    lines = read_lines(file)
    assert [line["task"] for line in lines] == ["choices"] * 2 + ["answers"] * 2
    assert main([*words[:-2], "--limit=1", "--harness=choices", "--chat=words"]) == 0
    assert "choices: 1 questions" in capsys.readouterr().out
    assert main([*words, "--harness=choice"]) == 64
    assert "has no task 'choice'" in capsys.readouterr().err
