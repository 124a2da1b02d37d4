"""Run directories of every format that tlx ever wrote load, and say what they said when they were made."""

import numpy as np
import pytest

import tlx
from tests.make_golden_run import FOLDER, answers, unpack
from tests.tiers import tiers
from tlx.base.files import read_json
from tlx.training.directory import FORMAT

pytestmark = pytest.mark.jax_versions

ARCHIVES = sorted(FOLDER.glob("format_*/*.tar.xz"))
# One archive of each format.
QUICK = list({path.parent: path for path in reversed(ARCHIVES)}.values())


@pytest.mark.parametrize(
    "archive", tiers(ARCHIVES, quick=QUICK), ids=lambda path: f"{path.parent.name}-{path.name[:-7]}"
)
def test_an_old_run_still_loads(archive, tmp_path):
    expected = read_json(archive.with_name(archive.name.replace(".tar.xz", ".json")))
    found = answers(tlx.load(unpack(archive, tmp_path)))
    for name in ("logits", "log_likelihood"):
        np.testing.assert_allclose(found.pop(name), expected.pop(name), rtol=1e-4, atol=1e-4)
    assert found == expected


def test_every_format_has_its_runs():
    assert {path.parent.name for path in ARCHIVES} >= {f"format_{number}" for number in range(1, FORMAT + 1)}
    for folder in FOLDER.iterdir():
        assert sum(path.stat().st_size for path in folder.iterdir()) < 300_000, folder
