"""Published answers, from the tables they were published with (skipped where those are absent)."""

import time

import numpy as np
import pytest

from tests.scaling.published import table
from tlx.scaling import downstream, fit, influence, isoflop, load_runs
from tlx.scaling.evaluation import predict_log
from tlx.scaling.laws import get_law
from tlx.scaling.runs import rows_of

# Gadre et al. 2024, table 2: the runs that fit the laws, and the 17 tasks that small models do above chance.
GADRE_FIT = (
    "rpj-d=96_l=8_h=4-1.0",
    "rpj-d=512_l=8_h=4-1.0",
    "rpj-d=576_l=24_h=8-1.0",
    "rpj-d=1024_l=24_h=8-1.0",
    "rpj-d=96_l=8_h=4-16.0",
)
GADRE_HELD = ("rpj-open_lm_1b-32.0", "rpj-open_lm_7b-1.0")
GADRE_TASKS = (
    "arc_easy bigbench_cs_algorithms bigbench_dyck_languages bigbench_novel_concepts bigbench_operators "
    "bigbench_qa_wikidata boolq commonsense_qa copa coqa hellaswag_zeroshot hellaswag lambada_openai piqa "
    "pubmed_qa_labeled squad winograd"
).split()

# hyperparameters, warm-up, decay -> exponent of N* (Porian et al. 2024, RefinedWeb, standard counting).
PORIAN = {
    ("base", "long", "kaplan"): 0.706,
    ("base", "short", "kaplan"): 0.602,
    ("base", "short", "chinchilla"): 0.571,
    ("tuned", "short", "const"): 0.497,
}


@pytest.fixture(scope="module")
def epoch():
    return load_runs(table("chinchilla_epoch.csv"), "chinchilla_epoch")


@pytest.mark.slow
def test_the_replication_of_chinchilla(epoch):
    """Besiroglu et al. 2024; 500 starts and 1,000 bootstraps in seconds."""
    begin = time.process_time()
    found = fit(epoch, starts=500, boot=1000)
    seconds = time.process_time() - begin
    assert found.status == "ok" and len(epoch["N"]) == 240
    assert found.objective <= 0.0010183
    assert found.exponents[0] == pytest.approx(0.514, abs=0.002)
    want = {"E": (1.8172, 1e-3), "A": (477.8, 1), "B": (2143.4, 4), "alpha": (0.3473, 2e-4)}
    for name, (value, within) in (want | {"beta": (0.3672, 2e-4)}).items():
        assert found.params[name] == pytest.approx(value, abs=within), name
    published = {"A": (285, 744), "B": (1042, 5810), "E": (1.769, 1.871)}
    for name, ends in (published | {"alpha": (0.317, 0.373), "beta": (0.331, 0.415)}).items():
        np.testing.assert_allclose(found.ci[name], ends, rtol=0.04, err_msg=name)
    assert found.agreeing > 100 and found.gradient < 1e-6
    assert seconds < 40


def test_five_outliers_move_tokens_per_parameter():
    found = fit(load_runs(table("chinchilla_epoch.csv"), "chinchilla_epoch", drop=0), boot=0)
    assert found.params["beta"] == pytest.approx(0.453, abs=0.001)
    best = found.optimal(5.76e23)
    assert best.D / best.N == pytest.approx(7, abs=0.5)
    (name, change), *_ = influence(found, 1)
    assert "loss 5.01" in name and abs(change) > 0.015  # the worst of the five stands out


def test_another_digitisation():
    found = fit(load_runs(table("chinchilla_kyo_takano.csv")), boot=0)
    assert found.params["E"] == pytest.approx(1.7839, abs=2e-4)
    assert found.exponents[0] == pytest.approx(0.4995, abs=2e-4)


def test_synthetic_curves_give_back_their_law():
    runs = load_runs(table("cs336_isoflops.json"))
    surface = fit(runs, boot=0)
    assert surface.params["alpha"] == pytest.approx(0.34, abs=1e-6)
    assert fit(runs, approach=2, boot=0).exponents[0] == pytest.approx(surface.exponents[0], abs=1e-4)
    assert fit(runs, approach=2, boot=0, curve="parabola").exponents[0] < 0.513  # biased


@pytest.mark.parametrize(("hparams", "warmup", "decay"), PORIAN)
def test_porians_exponents(hparams, warmup, decay):
    choose = {"hparams": hparams, "warmup": warmup, "decay": decay}
    runs = load_runs(table("porian_rw_standard.csv"), "porian", **choose)
    for curve in ("auto", "akima"):
        found = fit(runs, approach=2, boot=0, curve=curve)
        assert found.exponents[0] == pytest.approx(PORIAN[hparams, warmup, decay], abs=0.01), curve


def test_llama_3s_tokens():
    n, d = isoflop.fit_lines(isoflop.minima(load_runs(table("llama3_isoflops.csv")), "parabola"))
    assert d.coefficient == pytest.approx(0.299, abs=0.002) and d.exponent == pytest.approx(0.537, abs=0.001)
    assert n(3.8e25) == pytest.approx(393e9, rel=0.01) and d(3.8e25) == pytest.approx(16.1e12, rel=0.01)


def test_gadres_held_out_errors():
    runs = load_runs(table("gadre_models.csv"), "gadre", dataset="rpj")
    runs["err"] = 1 - np.mean([runs[f"acc_{task}"] for task in GADRE_TASKS], axis=0)
    rows = [list(runs["name"]).index(name) for name in (*GADRE_FIT, "rpj-open_lm_1b-1.0", *GADRE_HELD)]
    runs = rows_of(runs, np.array(rows))
    found = downstream(
        runs,
        "err",
        form="exponential",
        held_out=[6, 7],
        fit_rows=range(5),
        law="overtrain",
        loss="l2:plain",
        boot=0,
    )
    assert 100 * np.array(found["loss_error"]) == pytest.approx([0.7103, 0.7320], abs=2e-3)
    assert 100 * np.array(found["metric_error"]) == pytest.approx([3.6365, 0.0464], abs=2e-3)


@pytest.mark.slow
def test_a_refit_of_all_repeated_runs_is_not_identified():
    """And at the published constants the errors are as published."""
    runs = load_runs(table("datablations_runs.csv"))
    with pytest.warns(UserWarning, match="not identified"):
        found = fit(runs, "repeat", boot=200)
    assert found.status.startswith("not identified") and found.params is None and found.ci is None
    law = get_law("repeat")
    published = {
        "A": 521.0,
        "B": 1488.0,
        "E": 1.87,
        "alpha": 0.3527,
        "beta": 0.3527,
        "R_D": 15.39,
        "R_N": 5.31,
    }
    error = np.expm1(predict_log(law, runs, law.theta(published)) - np.log(runs["loss"]))
    assert np.median(np.abs(error)) == pytest.approx(0.08, abs=0.005)


def test_repeats_do_not_enter_a_law_of_one_epoch():
    from tlx.base.errors import DataError

    with pytest.raises(DataError, match="more than once"):
        fit(load_runs(table("datablations_runs.csv")), "chinchilla")
