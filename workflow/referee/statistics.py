"""Statistics by patient: intervals, paired comparisons, ranks.

Registrations of one patient are alike, and cross-subject pairs share patients, so pairs are no
independent observations. Patients are: they are drawn with replacement, and a pair counts as often
as its patients were drawn, for two patients the product (Snijders and Borgatti, "Non-parametric
standard errors and tests for network statistics", Connections 1999). Where cross-subject pairs have
no patient in common this overstates the error (Owen, "The pigeonhole bootstrap", Ann. Appl. Stat.
2007).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

DRAWS = 4000
LEVEL = 0.05  # of tests; intervals cover the rest


class Resampling(NamedTuple):
    """How often each pair counts in each draw, and how many patients there are.

    weights : ``(draws, pairs)``; draws in which no pair counts are left out.
    patients : their number; 1 if all pairs are of the same one or two, who tell of nobody else.
    """

    weights: np.ndarray
    patients: int

    def means(self, values: np.ndarray) -> np.ndarray:
        """Return each draw's weighted mean of ``(pairs,)`` or ``(pairs, …)`` values."""
        total = self.weights.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1))
        return np.tensordot(self.weights, values, axes=1) / total


def resample(fixed: np.ndarray, moving: np.ndarray, seed: int) -> Resampling:
    """Draw patients with replacement, for pairs of them.

    Parameters
    ----------
    fixed, moving : patient of each pair's scans; the same one for a longitudinal pair.
    """
    names, index = np.unique(np.concatenate([fixed, moving]), return_inverse=True)
    first, second = np.split(index, 2)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    weights = counts[:, first] * np.where(first == second, 1, counts[:, second])
    couples = set(zip(np.minimum(first, second), np.maximum(first, second), strict=True))
    patients = len(names) if len(couples) > 1 else 1
    return Resampling(weights[weights.any(axis=1)].astype(float), patients)


def error_and_quantile(draws: np.ndarray, patients: int) -> tuple[np.ndarray, float]:
    """Return the standard error of resampled means and Student's factor for few patients."""
    if patients < 2:
        return np.full(draws.shape[1:], np.nan), float("nan")
    return draws.std(axis=0, ddof=1), float(stats.t.ppf(1 - LEVEL / 2, patients - 1))


def interval(values: np.ndarray, resampling: Resampling) -> tuple[float, float]:
    """Return the 95 % interval of a mean over pairs; NaN if there is one patient."""
    draws = resampling.means(values)
    error, factor = error_and_quantile(draws, resampling.patients)
    return tuple(float(values.mean() + sign * factor * error) for sign in (-1, 1))


def compare(dice: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """Compare all methods with each other.

    Parameters
    ----------
    dice : one row a pair, one column a method.

    Returns
    -------
    One row for each two methods `a`, `b`: mean `difference` a - b, its 95 % interval `low`, `high`,
    `p` of a two-sided test (Student's t, patients - 1 degrees of freedom) and `p_holm`, corrected
    for the number of comparisons (Holm 1979).
    """
    couples = list(itertools.combinations(dice.columns, 2))
    if not couples:
        return pd.DataFrame(columns=["a", "b", "difference", "low", "high", "p", "p_holm"])
    differences = np.stack([(dice[a] - dice[b]).to_numpy() for a, b in couples], axis=1)
    mean = differences.mean(axis=0)
    error, factor = error_and_quantile(resampling.means(differences), resampling.patients)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(mean) / error, max(resampling.patients - 1, 1))
    p = np.where(np.abs(mean) > 0, p, 1.0)  # equal methods have no error either
    known = np.isfinite(p)
    holm = np.full(len(p), np.nan)
    if known.any():
        holm[known] = multipletests(p[known], LEVEL, method="holm")[1]
    table = pd.DataFrame(couples, columns=["a", "b"])
    return table.assign(
        difference=mean, low=mean - factor * error, high=mean + factor * error, p=p, p_holm=holm
    )


class Ranks(NamedTuple):
    """Ranks of the methods by Dice; 1 is the best.

    table : a row a method: `rank`, the mean of the patients' ranks; `low` and `high`, between which
        the rank of its mean Dice lies in 95 % of the draws; `best`, the part of the draws in which
        it has the highest.
    p : of Friedman's test that all methods are alike; NaN with fewer than three methods or
        patients.
    critical : the difference of two mean ranks that Nemenyi's test finds significant.
    patients : those that rank the methods.
    stability : mean of Kendall's tau between the order of a draw and that of all pairs.
    """

    table: pd.DataFrame
    p: float
    critical: float
    patients: int
    stability: float


def rank(
    dice: pd.DataFrame, fixed: np.ndarray, moving: np.ndarray, resampling: Resampling
) -> Ranks:
    """Rank methods by patients, and see how stable the order is when patients are redrawn.

    A patient's Dice is the mean over the pairs that it is in. Friedman 1937; Nemenyi 1963, as in
    Demsar, JMLR 2006.

    Parameters
    ----------
    dice : one row a pair, one column a method.
    fixed, moving : patient of each pair's scans.
    """
    both = pd.concat([dice.set_axis(fixed), dice.set_axis(moving)])
    by_patient = both.groupby(level=0).mean()
    ranks = by_patient.rank(axis=1, ascending=False)
    methods, patients = dice.shape[1], len(by_patient)
    p = critical = float("nan")
    if min(methods, patients, resampling.patients) > 2:
        p = float(stats.friedmanchisquare(*by_patient.to_numpy().T).pvalue)
        quantile = stats.studentized_range.ppf(1 - LEVEL, methods, np.inf) / np.sqrt(2)
        critical = float(quantile * np.sqrt(methods * (methods + 1) / (6 * patients)))
    drawn = stats.rankdata(-resampling.means(dice.to_numpy()), axis=1)
    low, high = np.percentile(drawn, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)], axis=0)
    table = pd.DataFrame(
        {"rank": ranks.mean(), "low": low, "high": high, "best": (drawn == 1).mean(axis=0)},
        index=dice.columns,
    )
    whole = stats.rankdata(-dice.mean())
    orders, counts = np.unique(drawn, axis=0, return_counts=True)
    taus = [stats.kendalltau(order, whole).statistic for order in orders]
    stability = float(np.average(taus, weights=counts)) if methods > 1 else float("nan")
    return Ranks(table, p, critical, patients, stability)
