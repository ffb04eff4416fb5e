"""Statistics by patient: known answers, agreement with textbook tests, edge cases."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from workflow.referee.ranking import cliques
from workflow.referee.statistics import compare, interval, rank, resample


def longitudinal(patients=30):
    """Return the patients of one pair each."""
    names = np.array([f"P{n:02}" for n in range(patients)])
    return names, names


def normal(count, seed, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, count)


def test_interval_of_independent_patients_is_students():
    fixed, moving = longitudinal()
    values = normal(30, 1, 5)
    expected = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert interval(values, resample(fixed, moving, 0)) == pytest.approx(expected, abs=0.03)


def test_pairs_of_one_patient_count_as_one():
    """Ten equal pairs of each patient say no more than one."""
    fixed, moving = longitudinal()
    values = normal(30, 2)
    once = interval(values, resample(fixed, moving, 0))
    tenfold = resample(np.repeat(fixed, 10), np.repeat(moving, 10), 0)
    assert interval(np.repeat(values, 10), tenfold) == pytest.approx(once, abs=1e-9)


def test_shared_patients_widen_the_interval():
    """The value of a pair is the sum of what its two patients bring along."""
    rng = np.random.default_rng(3)
    effect = rng.normal(size=12)
    first, second = np.triu_indices(12, 1)
    names = np.array([f"P{n:02}" for n in range(12)])
    low, high = interval(effect[first] + effect[second], resample(names[first], names[second], 0))
    # The mean of all pairs is twice the mean effect, whose error is that of 12 patients.
    expected = 2 * 2 * stats.t.ppf(0.975, 11) * stats.sem(effect)
    assert high - low == pytest.approx(expected, rel=0.15)


def test_weights_are_products_of_draws():
    fixed, moving = np.array(["a", "a", "b"]), np.array(["a", "b", "c"])
    weights = resample(fixed, moving, 0).weights
    # Three patients are drawn: "a" twice and "b" once gives 2, 2 x 1, 1 x 0.
    assert (2, 2, 0) in {tuple(row) for row in weights.astype(int)}
    assert weights.any(axis=1).all()


def test_comparison_is_a_paired_t_test_with_holm():
    fixed, moving = longitudinal()
    base = 10 * normal(30, 4)  # patients differ much more than methods
    dice = pd.DataFrame({"a": base, "b": base + normal(30, 5, 0.6), "c": base + normal(30, 6, 0.1)})
    found = compare(dice, resample(fixed, moving, 0)).set_index(["a", "b"])
    p = found["p"]
    for a, b in p.index:
        expected = stats.ttest_rel(dice[a], dice[b]).pvalue
        assert p[a, b] == pytest.approx(expected, rel=0.2, abs=1e-3)
        assert found["difference"][a, b] == pytest.approx((dice[a] - dice[b]).mean())
    ordered = p.sort_values()
    holm = np.maximum.accumulate(np.minimum(ordered * np.array([3, 2, 1]), 1))
    np.testing.assert_allclose(found["p_holm"][ordered.index], holm)
    within = (found["low"] < 0) & (found["high"] > 0)
    assert ((p > 0.05) == within).all()


def test_equal_methods_do_not_differ():
    fixed, moving = longitudinal(5)
    values = normal(5, 7)
    found = compare(pd.DataFrame({"a": values, "b": values}), resample(fixed, moving, 0))
    assert found["p"].item() == found["p_holm"].item() == 1


def test_one_patient_tells_nothing():
    patients = np.array(["a", "a"])
    resampling = resample(patients, patients, 0)
    assert np.isnan(interval(np.array([1.0, 2.0]), resampling)).all()
    found = compare(pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 4.0]}), resampling)
    assert found["difference"].item() == -1.5
    assert np.isnan(found["p_holm"].item())


def test_one_couple_tells_of_nobody_else():
    fixed, moving = np.array(["a", "b"]), np.array(["b", "a"])
    resampling = resample(fixed, moving, 0)
    assert np.isnan(interval(np.array([1.0, 2.0]), resampling)).all()
    dice = pd.DataFrame(np.arange(6.0).reshape(2, 3), columns=list("xyz"))
    assert np.isnan(rank(dice, fixed, moving, resampling).p)


def test_ranks_friedman_and_critical_difference():
    """Demsar 2006, table 6 and section 3.2.2: four methods on 14 data sets, CD 1.25 at 0.05."""
    fixed, moving = longitudinal(14)
    rng = np.random.default_rng(8)
    dice = pd.DataFrame(rng.normal([0, 0.5, 1, 5], 1, (14, 4)), columns=list("abcd"))
    found = rank(dice, fixed, moving, resample(fixed, moving, 0))
    assert found.critical == pytest.approx(1.25, abs=0.01)
    assert found.p == pytest.approx(stats.friedmanchisquare(*dice.to_numpy().T).pvalue)
    expected = dice.rank(axis=1, ascending=False).mean()
    pd.testing.assert_series_equal(found.table["rank"], expected, check_names=False)
    assert found.table.loc["d", ["low", "high", "best"]].tolist() == [1, 1, 1]
    assert found.table["best"].sum() == pytest.approx(1)
    assert 0 < found.stability <= 1
    assert found.patients == 14


def test_cross_subject_pairs_count_for_both_patients():
    fixed, moving = np.array(["a", "b"]), np.array(["b", "c"])
    dice = pd.DataFrame({"x": [1.0, 4.0], "y": [2.0, 1.0]})
    found = rank(dice, fixed, moving, resample(fixed, moving, 0))
    # Patient a: y is better; b: x by 2.5 to 1.5; c: x.
    assert found.table["rank"].tolist() == pytest.approx([4 / 3, 5 / 3])


def test_cliques_are_the_longest_runs():
    assert cliques([1.0, 1.5, 2.4, 4.0], 1.0) == [(0, 1), (1, 2)]
    assert cliques([1.0, 1.2, 1.4], 1.0) == [(0, 2)]
    assert cliques([1.0, 3.0], 1.0) == []
    assert cliques([1.0, 3.0], float("nan")) == []
