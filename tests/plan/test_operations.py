"""The optimised step of each shape has the operations it had: a refactor that changes the graph shows.

Where a change is meant: python -m tests.plan.test_operations writes the file anew; say in the commit what
changed and why. Counts are of one version of jax, on eight CPU devices, as tests compile.
"""

import json
import os
import pathlib

import jax
import pytest

from tests.plan import tiny
from tlx import parallel
from tlx.plan import hlo
from tlx.plan.compiled import operations
from tlx.run.program import build_program
from tlx.run.spec import spec_before_tokenizer

pytestmark = pytest.mark.jax_versions

GOLDEN = pathlib.Path(__file__).with_name("operations.json")


def counted(shape: str) -> dict[str, int]:
    config = tiny.config(shape, "both")
    made = build_program(config, spec_before_tokenizer(config), parallel.make_mesh(config.mesh))
    with made.use():
        # With the emitters that tests leave out otherwise: they decide what is fused.
        lowered = made.step.lower(made.state, made.batch)
        compiled = lowered.compile(compiler_options={"xla_cpu_use_fusion_emitters": True})
        return operations(hlo.parse(compiled.as_text()))


@pytest.mark.parametrize(
    "shape",
    [shape if shape == "clm" else pytest.param(shape, marks=pytest.mark.slow) for shape in tiny.SHAPES],
)
def test_operations_are_those_recorded(shape):
    golden = json.loads(GOLDEN.read_text())
    if golden["jax"] != jax.__version__:
        pytest.skip(f"recorded with jax {golden['jax']}, this is {jax.__version__}")
    found = counted(shape)
    changed = {
        name: (golden["shapes"][shape].get(name, 0), found.get(name, 0))
        for name in {*golden["shapes"][shape], *found}
        if golden["shapes"][shape].get(name, 0) != found.get(name, 0)
    }
    assert not changed, f"{{operation: (recorded, now)}} = {changed}; see the top of this file"


if __name__ == "__main__":
    assert os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1", "compile as tests/conftest.py does"
    shapes = {shape: counted(shape) for shape in tiny.SHAPES}
    GOLDEN.write_text(json.dumps({"jax": jax.__version__, "shapes": shapes}, indent=1) + "\n")
