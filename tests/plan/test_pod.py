"""The configs of pods: each fits the machine that its page names, and has a variant that trains here."""

import pathlib
import re

import pytest

import tlx.plan
from tlx.cli.flags import load_config
from tlx.run.checks import resolve

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "pod").glob("*.py"))


SLOW = [pytest.param(path, marks=() if "llama2_7b" in path.stem else pytest.mark.slow) for path in FILES]


@pytest.mark.parametrize("path", SLOW, ids=[path.stem for path in FILES])
def test_fits_where_its_page_says(path):
    (target,) = re.findall(r"--target=(\S+)", path.read_text())
    found = tlx.plan.plan(load_config(str(path)), target, "analytic")
    assert found.fits and found.mfu > 0.5
    tiny = resolve(load_config(f"{path}:tiny"))
    assert tiny.model.width <= 64 and tlx.plan.plan(tiny, "cpu:8", "analytic").fits
