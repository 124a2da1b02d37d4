"""Approach 2 over many grids: how exact each curve is with and without noise; configs/scaling/README.md has figures.

`pytest -m long -s tests/scaling/test_isoflop_grids.py`.
"""

import itertools

import numpy as np
import pytest

from tlx.base.errors import DataError
from tlx.scaling import isoflop
from tlx.scaling.simulation import BESIROGLU, draw, grid

HOFFMANN = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
SURFACES = (BESIROGLU, HOFFMANN, HOFFMANN | {"alpha": 0.46, "beta": 0.15})
SWEEPS = 12
LARGEST = 1e21


def errors(curve, noise):
    """Root mean square errors of the exponent and of ln N* at the largest budget, over all grids and sweeps."""
    found = []
    for params, span, sizes, center in itertools.product(SURFACES, (4, 8, 16), (7, 15), (1.0, 2.0)):
        truth = params["beta"] / (params["alpha"] + params["beta"])
        best = grid([LARGEST], 1, 1, params)["N"][0]
        for seed in range(SWEEPS if noise else 1):
            budgets = grid(np.geomspace(1e18, LARGEST, 6), sizes, span, params, center)
            try:
                lowest = isoflop.minima(draw(budgets, params, noise, seed=seed), curve)
                size_line = isoflop.fit_lines(lowest)[0]
            except DataError:
                continue  # of the small grids off centre, noise leaves some without minima
            found.append([size_line.exponent - truth, np.log(size_line(LARGEST) / best)])
    return np.sqrt(np.mean(np.square(found), axis=0))


@pytest.mark.long
@pytest.mark.parametrize("noise", [0.0, 0.001, 0.003, 0.01])
def test_auto_over_many_grids(noise):
    table = {curve: errors(curve, noise) for curve in ("auto", "parabola", "cubic", "quartic")}
    shown = [f"{curve} {exponent:.4f}, {size:.1%}" for curve, (exponent, size) in table.items()]
    print(f"\nnoise {noise:.1%}: {'; '.join(shown)}")
    assert table["auto"][1] < table["parabola"][1]
    assert table["auto"][0] < 1.1 * table["parabola"][0]
