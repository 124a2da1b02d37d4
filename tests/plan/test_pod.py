"""The configs of pods: each fits the machine that its page names, and has a variant that trains here."""

import json
import pathlib
import re

import pytest

import tlx.plan
from tests import pod_page
from tests.plan import tiny
from tlx import cli
from tlx.cli.flags import load_config
from tlx.plan.compilers import TooLarge
from tlx.run.checks import resolve

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "pod").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_fits_where_its_page_says(path):
    (target,) = re.findall(r"--target=(\S+)", path.read_text())
    found = tlx.plan.plan(load_config(str(path)), target, "analytic")
    assert found.fits and found.mfu > 0.5
    tiny = resolve(load_config(f"{path}:tiny"))
    assert tiny.model.width <= 64 and tlx.plan.plan(tiny, "cpu:8", "analytic").fits


def test_the_page_has_the_rows_of_the_figures():
    text = pod_page.PAGE.read_text()
    assert text == pod_page.page(text, pod_page.read_rows()), "python -m tests.pod_page writes it"


def test_a_search_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """A layout that is compiled is kept at once; rows of today are not searched again, the oldest come first."""
    monkeypatch.setattr(pod_page, "estimate", lambda *_: None)
    monkeypatch.setattr(pod_page, "too_large", lambda _, facts, target: facts)
    compiled = []

    def compile_it():
        compiled.append(1)
        return TooLarge("Used 5G of 1G", 5 << 30)

    arguments = (tiny.config("clm"), tlx.plan.parse_target("cpu:8"), tmp_path / "layouts", compile_it)
    assert pod_page.cached_plan(*arguments) == pod_page.cached_plan(*arguments) == compile_it()
    assert len(compiled) == 2  # one of them by this test
    days = ("2026-11-30", "2026-12-01", "2026-11-21")
    rows = [{"config": "c", "target": "tpu:v6e", "date": day} for day in days]
    assert pod_page.due(rows, "2026-12-01", ["v6e"]) == [2, 0] and pod_page.due(rows, "2027", ["v5e"]) == []


# Llama 3 405B (Llama Team 2024, table 3).
LLAMA3_405B = {
    "width": 16_384,
    "num_layers": 126,
    "vocab_size": 128_256,
    "attention.num_heads": 128,
    "attention.num_kv_heads": 8,
    "feedforward.ff_dim": 53_248,
}


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("llama2_70b", 69.0e9),
        pytest.param("gpt3_175b", 174.6e9, marks=pytest.mark.slow),
        pytest.param("llama3_405b", 405.8e9, marks=pytest.mark.slow),
    ],
)
def test_bytes_and_seconds_of_a_checkpoint_on_512_hosts(name, parameters, capsys):
    """12 bytes a parameter, each written once by one of the hosts, and read once by one of the 8 replicas."""
    file = "llama2_70b" if name == "llama3_405b" else name
    words = [f"--config={ROOT}/configs/pod/{file}_v5p.py", "--target=tpu:v5p:8x16x16", "--method=analytic"]
    if name == "llama3_405b":
        words += [f"--config.model.{key}={value}" for key, value in LLAMA3_405B.items()]
        words.append("--config.tokenizer.vocab_size=128256")
    cli.main(["plan", *words, "--storage-rate=2", "--json"])
    costs = json.loads(capsys.readouterr().out)["checkpoint"]
    state = 12 * parameters
    assert costs["hosts"] == 512
    assert costs["state_bytes"] == pytest.approx(state, rel=0.003)
    assert costs["bytes_per_host"] == pytest.approx(state / 512, rel=0.003)
    # Groups of 256 chips hold the state once; a host has 4 of them.
    assert costs["held_bytes_per_host"] == pytest.approx(4 * state / 256, rel=0.02)
    # Leaves are dealt out among replicas whole: the one with most to read has up to half more than its share.
    restored = costs["restored_bytes_per_host"]
    assert state / 512 <= restored < 1.5 * state / 512
    assert costs["verify_seconds"] == pytest.approx(state / 512 / 1.29e9, rel=0.003)
    assert costs["save_seconds"] == pytest.approx(state / 512 * (1 / 2e9 + 1 / 1.29e9), rel=0.003)
    assert costs["restore_seconds"] == pytest.approx(state / 512 / 1.29e9 + restored / 2e9, rel=0.02)
