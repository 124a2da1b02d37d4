"""Laws and fits on surfaces that are known exactly."""

import re

import numpy as np
import pytest

from tlx.base.errors import ConfigError, DataError
from tlx.scaling import by_convention, by_delta, fit, isoflop, predict_loss
from tlx.scaling.evaluation import Problem
from tlx.scaling.laws import LAWS, get_law
from tlx.scaling.runs import load_runs
from tlx.scaling.simulation import BESIROGLU, draw, grid

HOFFMANN = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
STEEP = HOFFMANN | {"alpha": 0.46, "beta": 0.15}

# Constants of each law and a table that shows them.
EXAMPLES = {
    "chinchilla": HOFFMANN,
    "kaplan_n": {"A": 11.0, "alpha": 0.076},
    "kaplan_d": {"B": 20.0, "beta": 0.095},
    "kaplan_c": {"K": 22.0, "gamma": 0.05},
    "kaplan": {"A": 7e10, "D_c": 5.4e13, "p": 0.8, "beta": 0.095},
    "overtrain": {"a": 212.0, "b": 367.0, "E": 1.84, "eta": 0.136},
    "repeat": {"A": 521.0, "B": 1488.0, "E": 1.87, "alpha": 0.35, "beta": 0.36, "R_D": 15.4, "R_N": 5.3},
    "encdec": {"A": 60.0, "p_enc": 0.1, "p_dec": 0.15, "E": 1.2},
    "encdec_data": {"A": 60.0, "p_enc": 0.1, "p_dec": 0.15, "B": 300.0, "beta": 0.3, "E": 1.2},
    "transfer": {"k": 1.9e4, "a": 0.18, "b": 0.38},
    "batch": HOFFMANN | {"B_crit": 2e6},
    "moe": {
        "A": 300.0,
        "alpha": 0.3,
        "B": 411.0,
        "beta": 0.28,
        "C": 0.05,
        "lambda": 0.5,
        "F": 60.0,
        "delta": 0.2,
        "gamma": 0.25,
        "E": 1.7,
    },  # fmt: skip
    "moe_granularity": {
        "A": 150.0,
        "alpha": 0.25,
        "B": 300.0,
        "beta": 0.27,
        "F": 120.0,
        "gamma": 0.58,
        "E": 1.6,
    },
    "precision": HOFFMANN | {"gamma_w": 2.7, "gamma_a": 2.2, "gamma_kv": 1.0},
    "precision_weights": HOFFMANN | {"gamma_w": 2.7},
    "quantization": {"C_T": 0.06, "gamma_D": 0.5, "gamma_N": 0.54, "gamma_post": 0.6},
}


def sample(law, rows=40, seed=0):
    rng = np.random.default_rng(seed)
    spread = {"N": (17, 24), "D": (20, 27), "N_enc": (15, 21), "N_dec": (15, 21), "D_F": (10, 18)}
    runs = {name: np.exp(rng.uniform(*ends, rows)) for name, ends in spread.items()}
    runs["flops"] = 6 * runs["N"] * runs["D"]
    if law == "repeat":
        runs["D_unique"] = runs["D"] / np.exp(rng.uniform(0, 4, rows))
    if law == "moe":
        runs["N_active"] = runs["N"] / np.exp(rng.uniform(0, 4, rows))
        runs["flops"] = 6 * runs["N_active"] * runs["D"]
    runs["G"] = np.exp(rng.uniform(0, 3.5, rows))
    for bits in ("P_w", "P_a", "P_kv", "P_post"):
        runs[bits] = rng.uniform(2, 12, rows)
    runs["batch"] = np.exp(rng.uniform(11, 17, rows))
    return draw(runs, EXAMPLES[law], law=law)


@pytest.mark.parametrize("name", LAWS)
def test_gradients_are_exact(name):
    problem = Problem(get_law(name), sample(name))
    phi = problem.starts(4)
    _, slope = problem.evaluate(phi)
    for j in range(problem.size):
        step = np.eye(problem.size)[j] * 1e-6
        numeric = (problem.evaluate(phi + step)[0] - problem.evaluate(phi - step)[0]) / 2e-6
        np.testing.assert_allclose(slope[:, :, j], numeric, atol=2e-8)


@pytest.mark.parametrize("name", LAWS)
def test_constants_of_an_exact_surface(name):
    found = fit(sample(name), name, boot=0, starts=100)
    assert found.status == "ok", found.status
    for constant, value in EXAMPLES[name].items():
        assert found.params[constant] == pytest.approx(value, rel=1e-6), constant


def test_the_loss_is_named_and_a_wrong_one_refused():
    assert fit(sample("chinchilla"), loss="lad", boot=0, starts=40).settings.loss == "lad"
    with pytest.raises(ConfigError, match="loss = 'hubert' is not one of"):
        fit(sample("chinchilla"), loss="hubert")
    with pytest.raises(ConfigError, match="did you mean 'chinchilla'"):
        fit(sample("chinchilla"), law="chinchila")
    with pytest.raises(ConfigError, match="approach = 2"):
        fit(sample("kaplan"), law="kaplan", approach=2)


@pytest.mark.parametrize("params", [HOFFMANN, STEEP], ids=["hoffmann", "steep"])
@pytest.mark.parametrize("center", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("sizes", [9, 15])
def test_iso_flop_minima_are_not_biased(params, center, sizes):
    """D* within .5% at the largest budget on grids of +-8x, where parabolas are 2 to 14% off."""
    runs = draw(grid(np.geomspace(1e17, 1e21, 5), sizes, 8, params, center), params)
    exact = runs["flops"].max() / 6 / (grid([runs["flops"].max()], 1, 1, params)["N"][0])
    found = fit(runs, approach=2, boot=0)
    assert found.optimal(1e21).D == pytest.approx(exact, rel=0.005)
    one, two = (
        isoflop.fit_lines(isoflop.minima(runs, curve))[1](1e21) / exact for curve in ("quartic", "parabola")
    )
    assert abs(one - 1) < 0.005 < 0.014 < abs(two - 1)


def test_budgets_are_grouped_by_gaps_not_by_chains():
    """Runs 4% apart over a factor of 50 are many budgets; three tight clusters stay three."""
    chain = np.exp(np.arange(0, np.log(50), 0.04))
    groups = isoflop.group_budgets({"flops": chain})
    assert len(groups) > 10 and max(np.ptp(np.log(chain[rows])) for rows in groups) <= np.log(1.25)
    np.testing.assert_array_equal(np.concatenate(groups), np.arange(len(chain)))
    clusters = np.concatenate([budget * np.linspace(0.95, 1.05, 7) for budget in (1e18, 4e18, 1.6e19)])
    assert [len(rows) for rows in isoflop.group_budgets({"flops": clusters})] == [7, 7, 7]


@pytest.mark.parametrize(("sizes", "noise"), [(15, 0.003), (7, 0.01)])
def test_auto_is_as_exact_as_the_parabola_where_there_is_noise(sizes, noise):
    """Root mean square error of the exponent over 24 sweeps; without noise it is the quartic's (above)."""
    truth = BESIROGLU["beta"] / (BESIROGLU["alpha"] + BESIROGLU["beta"])
    tables = [draw(grid(np.geomspace(1e18, 1e21, 6), sizes), noise=noise, seed=seed) for seed in range(24)]
    error = {}
    for curve in ("auto", "parabola"):
        found = [fit(runs, approach=2, boot=0, curve=curve).exponents[0] for runs in tables]
        error[curve] = np.sqrt(np.mean((np.array(found) - truth) ** 2))
    assert error["auto"] < 1.1 * error["parabola"]


def test_a_minimum_at_the_edge_is_refused():
    runs = draw(grid(np.geomspace(1e17, 1e19, 4), 9, 4, HOFFMANN, center=20), HOFFMANN)
    with pytest.warns(UserWarning, match="not bracketed"):
        found = fit(runs, approach=2, boot=0)
    assert found.status.startswith("not identified: 0 budgets") and found.params is None
    with pytest.raises(DataError, match="not identified"):
        found.optimal(1e20)


def test_approach_1_on_training_curves():
    """Points of curves at many sizes: the lower envelope's exponent is near the surface's."""
    n = np.repeat(np.geomspace(1e6, 1e10, 25), 60)
    tokens = np.tile(np.geomspace(1e7, 1e13, 60), 25)
    runs = draw({"N": n, "D": tokens, "flops": 6 * n * tokens, "run": np.log(n)}, HOFFMANN)
    runs = {name: column[runs["flops"] < 1e21] for name, column in runs.items()}
    found = fit(runs, approach=1, boot=50)
    assert found.exponents[0] == pytest.approx(0.28 / 0.62, abs=0.03)
    low, high = found.ci["a"]
    assert low < found.exponents[0] < high


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: r | {"D": r["N"] * 20, "flops": 120 * r["N"] ** 2}, "apart|bound|bootstrap|anywhere"),
        (lambda r: r | {"D": np.full_like(r["N"], 1e10)}, "apart|bound|zero|end"),
        (lambda r: {k: v[:5] for k, v in r.items()}, "5 runs for 5 constants"),
        (lambda r: r | {"loss": 2 + 0 * r["N"]}, "E|apart|end"),
    ],
    ids=["one ratio", "one D", "few", "flat"],
)
def test_what_data_cannot_tell_is_said(change, why):
    runs = change(sample("chinchilla"))
    if "loss" in runs and np.ptp(runs["loss"]) > 0:
        runs = draw(runs, HOFFMANN, noise=0.002)
    with pytest.warns(UserWarning):
        found = fit(runs, boot=100, starts=60)
    assert found.status.startswith("not identified")
    assert re.search(why, found.status), found.status
    assert "params" not in found.to_dict()


def test_the_bootstrap_draws_runs_not_rows():
    """Five checkpoints of each run share its error: intervals by row are too narrow."""
    base = grid(np.geomspace(1e18, 1e21, 5), 5)
    rng = np.random.default_rng(0)
    runs = {k: np.repeat(v, 5) for k, v in base.items()}
    runs["run"] = np.repeat(np.arange(25.0), 5)
    runs = draw(runs, BESIROGLU)
    runs["loss"] *= np.exp(np.repeat(rng.normal(0, 0.005, 25), 5))
    by_run = fit(runs, boot=200, starts=30).ci["a"]
    by_row = fit({k: v for k, v in runs.items() if k != "run"}, boot=200, starts=30).ci["a"]
    assert np.ptp(by_run) > 1.4 * np.ptp(by_row)
    assert fit(runs, boot=50, starts=30, by="N").ok
    with pytest.raises(DataError, match="needs the column 'nothing'"):
        fit(runs, boot=50, starts=30, by="nothing")


def test_conventions_and_deltas_are_compared():
    runs = draw(grid(np.geomspace(1e18, 1e21, 5), 7), BESIROGLU, noise=0.002)
    runs["N_nonembed"] = runs["N"] * (1 - 1 / (1 + (runs["N"] / 3e8) ** 0.67))
    runs["flops_exact"] = runs["flops"] * 1.1
    found = fit(runs, boot=0, starts=40)
    exponents = by_convention(found)
    assert exponents["kaplan"] > exponents["6nd"] + 0.02  # without embeddings the exponent comes out high
    assert exponents["exact"] == pytest.approx(exponents["6nd"], abs=1e-6)
    deltas = by_delta(found)
    assert set(deltas) == {"huber:1e-4", "huber:1e-3", "huber:1e-2", "l2"}
    assert all(abs(a - found.exponents[0]) < 0.02 for a in deltas.values())


def test_flops_may_grow_faster_than_parameters():
    """The optimum is that of the flops in the table: found by search to 4 digits."""
    runs = grid(np.geomspace(1e18, 1e21, 5), 7)
    runs["flops"] = 3 * runs["N"] ** 1.05 * runs["D"]
    found = fit(draw(runs), boot=0, starts=40)
    best = found.optimal(1e22)
    n = best.N * np.geomspace(0.5, 2, 2001)
    loss = [predict_loss(found, N=x, D=1e22 / (3 * x**1.05)).loss for x in n[::100]]
    assert abs(n[::100][np.argmin(loss)] / best.N - 1) < 0.08
    one, two = found.optimal(1e22), found.optimal(1e24)
    assert np.log(two.N / one.N) / np.log(100) == pytest.approx(found.exponents[0], abs=1e-9)


def test_the_optimum_under_repetition_is_that_of_fresh_text():
    optima = [fit(sample(law), law, boot=0, starts=100).optimal(1e21) for law in ("repeat", "chinchilla")]
    for optimum, law in zip(optima, ("repeat", "chinchilla"), strict=True):
        constants = EXAMPLES[law]
        loss = constants["E"] + constants["A"] * optimum.N ** -constants["alpha"]
        loss += constants["B"] * optimum.D ** -constants["beta"]
        assert optimum.loss == pytest.approx(loss, rel=1e-6)


def test_tables_in_many_forms(tmp_path):
    rows = [{"params": 1e6 * (i + 1), "tokens": 2e7 * (i + 1), "final_loss": 3.0 - i / 10} for i in range(4)]
    one = load_runs(rows)
    (tmp_path / "runs.csv").write_text(
        "params,tokens,final_loss\n"
        + "\n".join(f"{r['params']},{r['tokens']},{r['final_loss']}" for r in rows)
    )
    two = load_runs(tmp_path / "runs.csv")
    for name in ("N", "D", "loss"):
        np.testing.assert_array_equal(one[name], two[name])
    rows[0]["status"] = "diverged"
    for row in rows[1:]:
        row["status"] = "done"
    with pytest.warns(UserWarning, match="1 of 4 runs are not done"):
        assert len(load_runs(rows)["N"]) == 3
    with pytest.raises(DataError, match="no table of runs"):
        load_runs(tmp_path / "nothing.csv")


def test_every_verb_is_a_function_of_the_package():
    import tlx.scaling

    for name in tlx.scaling.__all__:
        namespace = {}
        exec(f"from tlx.scaling import {name}", namespace)
        assert callable(namespace[name]), name


def test_budgets_share_the_shape_of_their_curves():
    """Constants that all budgets share cost the exponent nothing: it is as exact as a parabola, N* more so."""
    steep = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.46, "beta": 0.15}
    best = grid([1e21], 1, 1, steep)["N"][0]
    errors = {"auto": [], "parabola": []}
    for seed in range(12):
        runs = draw(grid(np.geomspace(1e18, 1e21, 6), 15, 8, steep), steep, 0.001, seed=seed)
        for curve, found in errors.items():
            line = isoflop.fit_lines(isoflop.minima(runs, curve))[0]
            found.append([line.exponent - 0.15 / 0.61, np.log(line(1e21) / best)])
    auto, parabola = (np.sqrt(np.mean(np.square(found), 0)) for found in errors.values())
    assert auto[0] < 1.15 * parabola[0] and auto[1] < 0.1 * parabola[1]
