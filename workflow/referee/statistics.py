"""Statistics by patient: intervals, paired comparisons, ranks.

Registrations of one patient are alike, and cross-subject pairs share patients, so pairs are no
independent observations. Patients are: they are drawn with replacement, and a pair counts as often
as its patients were drawn, for two patients the product (Snijders and Borgatti, "Non-parametric
standard errors and tests for network statistics", Connections 1999). Student's quantile makes up
for few patients; where pairs are fewer than patients, as when no two share one, for few couples.
"""

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from workflow.referee.tidy import SCANS, pair_values

DRAWS = 4000
LEVEL = 0.05  # of tests; intervals cover the rest


class Resampling(NamedTuple):
    """How often each pair counts in each draw of patients."""

    weights: np.ndarray  # (draws, pairs); draws in which no pair counts are left out
    # Independent observations: patients, or couples of them if these are fewer. 1 or 0: nothing can
    # be said of other patients.
    units: int
    # The patient who is in all pairs, as an atlas is, and so is not redrawn; results hold for
    # registration with this one.
    common: str | None
    scale: float  # makes the spread of redrawn means an unbiased error

    def means(self, values: np.ndarray) -> np.ndarray:
        """Return each draw's weighted mean of ``(pairs,)`` or ``(pairs, …)`` values."""
        total = self.weights.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1))
        return np.tensordot(self.weights, values, axes=1) / total

    def error(self, values: np.ndarray) -> np.ndarray:
        """Return the standard error of the mean of such values; NaN with one unit."""
        if self.units < 2:
            return np.full(values.shape[1:], np.nan)
        return self.scale * self.means(values).std(axis=0, ddof=1)

    def interval(self, values: np.ndarray, comparisons: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of the 95 % interval of the mean of such values; NaN with one unit.

        Of several `comparisons` it is one such that all hold at once (Bonferroni).
        """
        quantile = stats.t.ppf(1 - LEVEL / 2 / comparisons, max(self.units - 1, 1))
        mean, half = values.mean(axis=0), quantile * self.error(values)
        return mean - half, mean + half


def resample(fixed: np.ndarray, moving: np.ndarray, seed: int) -> Resampling:
    """Draw patients with replacement, for pairs of them.

    `fixed` and `moving` are the patients of each pair's scans, for a longitudinal pair the same.
    """
    couples = {frozenset(pair) for pair in zip(fixed, moving, strict=True)}
    shared = frozenset.intersection(*couples) if len(couples) > 1 else frozenset()
    common = min(shared, default=None)
    others = _without(common, fixed, moving)
    names, index = np.unique(np.concatenate(others), return_inverse=True)
    if len(couples) < 2:
        return Resampling(np.ones((1, len(fixed))), len(couples), None, 1.0)
    one, other = np.split(index, 2)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    weights = counts[:, one] * np.where(one == other, 1, counts[:, other])
    return Resampling(
        weights[weights.any(axis=1)].astype(float),
        min(len(names), len(couples)),
        common,
        float(np.sqrt(len(names) / (len(names) - 1))),
    )


def _without(
    common: str | None, fixed: np.ndarray, moving: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the patients of pairs; where one is `common`, the other one twice."""
    return np.where(fixed == common, moving, fixed), np.where(moving == common, fixed, moving)


def compare(dice: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """Compare all methods with each other by their Dice, one row a pair, one column a method.

    Returns one row for each two methods `a`, `b`: mean `difference` a - b, its 95 % interval `low`,
    `high`, `p` of a two-sided test (Student's t) and `p_holm`, corrected for the number of
    comparisons (Holm 1979). NaN where nothing can be said.
    """
    couples = list(itertools.combinations(dice.columns, 2))
    table = pd.DataFrame(couples, columns=["a", "b"])
    if not couples or dice.empty:
        return table.assign(**dict.fromkeys(("difference", "low", "high", "p", "p_holm"), np.nan))
    differences = np.stack([(dice[a] - dice[b]).to_numpy() for a, b in couples], axis=1)
    mean, error = differences.mean(axis=0), resampling.error(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(mean) / error, max(resampling.units - 1, 1))
    p = np.where(error > 0, p, np.nan)  # differences that are all the same have no error
    p = np.where((error == 0) & (mean == 0), 1.0, p)
    known, holm = np.isfinite(p), np.full(len(p), np.nan)
    if known.any():
        holm[known] = multipletests(p[known], LEVEL, method="holm")[1]
    low, high = resampling.interval(differences)
    return table.assign(difference=mean, low=low, high=high, p=p, p_holm=holm)


class Ranks(NamedTuple):
    """Ranks of the methods by Dice; 1 is the best."""

    # A row a method: `rank`, the mean of the pairs' ranks, and its 95 % interval `low`, `high`;
    # `block_rank`, the mean of the blocks' ranks by their mean Dice; `best`, the part of the draws
    # in which it has the highest mean Dice.
    table: pd.DataFrame
    # Of Friedman's test that all methods are alike; NaN with fewer than three methods or blocks.
    p: float
    critical: float  # difference of two `block_rank`s that Nemenyi's test finds, likewise
    # Patients, or couples of patients that were picked such that nobody is in two (but who is in
    # all pairs).
    blocks: int
    stability: float  # mean of Kendall's tau between the order of a draw and that of all pairs


def rank(
    dice: pd.DataFrame, fixed: np.ndarray, moving: np.ndarray, resampling: Resampling
) -> Ranks:
    """Rank methods, and see how stable the order is when patients are redrawn.

    Friedman 1937; Nemenyi 1963, as in Demsar, JMLR 2006. `dice` has one row a pair and one column a
    method; `fixed` and `moving` are the patients of each pair's scans.
    """
    methods = dice.shape[1]
    ranks = stats.rankdata(-dice.to_numpy(), axis=1)
    low, high = resampling.interval(ranks)
    drawn = stats.rankdata(-resampling.means(dice.to_numpy()), axis=1)
    blocks = dice.groupby(_blocks(*_without(resampling.common, fixed, moving))).mean()
    table = pd.DataFrame(
        {
            "rank": ranks.mean(axis=0),
            "low": np.maximum(low, 1),
            "high": np.minimum(high, methods),
            "block_rank": stats.rankdata(-blocks.to_numpy(), axis=1).mean(axis=0),
            "best": (drawn == 1).mean(axis=0),
        },
        index=dice.columns,
    )
    p = critical = float("nan")
    if min(methods, len(blocks)) > 2:
        p = float(stats.friedmanchisquare(*blocks.to_numpy().T).pvalue)
        quantile = stats.studentized_range.ppf(1 - LEVEL, methods, np.inf) / np.sqrt(2)
        critical = float(quantile * np.sqrt(methods * (methods + 1) / (6 * len(blocks))))
    return Ranks(table, p, critical, len(blocks), _stability(drawn, dice.mean().to_numpy()))


def _blocks(fixed: np.ndarray, moving: np.ndarray) -> list[str | None]:
    """Return the block of each pair: pick couples in turn, and leave out whom they share."""
    block_of: dict[str, str] = {}
    for one, other in zip(fixed, moving, strict=True):
        if one not in block_of and other not in block_of:
            block_of[one] = block_of[other] = one
    return [
        block_of[one] if block_of.get(one) == block_of.get(other, "") else None
        for one, other in zip(fixed, moving, strict=True)
    ]


def _stability(drawn: np.ndarray, dice: np.ndarray) -> float:
    """Return how well the orders of the draws agree with that of all pairs."""
    if len(dice) < 2:
        return float("nan")
    whole = stats.rankdata(-dice)
    orders, counts = np.unique(drawn, axis=0, return_counts=True)
    taus = [stats.kendalltau(order, whole).statistic for order in orders]
    return float(np.average(taus, weights=counts))


class Comparison:
    """All methods on the pairs of one task.

    Attributes
    ----------
    pairs : a row a directed pair and method, see `pair_values`, with `before`, its Dice in % before
        registration (NaN without such a row), and `dice_or_before`, which replaces the Dice of
        failed registrations: whoever gets none is left with that.
    dice : `dice_or_before`, one row a pair, one column a method that is no control; without pairs
        in which some method has no Dice and nothing to replace it.
    """

    def __init__(
        self, pairs: pd.DataFrame, methods: Sequence[dict], patients: Mapping[str, str], seed: int
    ) -> None:
        self.patients, self.seed = patients, seed  # patient of each scan
        controls = [method["id"] for method in methods if method["kind"] == "control"]
        before = pairs[pairs["method"].isin(controls)].groupby(SCANS)["dice"].first()
        before = before.reindex(pd.MultiIndex.from_frame(pairs[SCANS]))
        pairs = pairs.assign(before=before.to_numpy())
        self.pairs = pairs.assign(dice_or_before=pairs["dice"].fillna(pairs["before"]))
        wide = self.wide("dice_or_before")
        ranked = [m["id"] for m in methods if m["id"] not in controls and m["id"] in wide]
        self.dice = wide[ranked].dropna()
        self.fixed, self.moving = self._patients_of(self.dice.index)
        self.resampling = resample(self.fixed, self.moving, seed)

    def wide(self, measure: str) -> pd.DataFrame:
        """Return a measure, one row a pair, one column a method."""
        return self.pairs.pivot(index=SCANS, columns="method", values=measure)

    def interval(
        self,
        values: pd.Series,
        bounds: tuple[float, float] = (-np.inf, np.inf),
        comparisons: int = 1,
    ) -> tuple[float, float]:
        """Return the 95 % interval of the mean of values by pair; NaN without any.

        `bounds` are those of the mean for certain: what lies outside is cut off. For `comparisons`
        see `Resampling.interval`.
        """
        if values.empty:
            return float("nan"), float("nan")
        resampling = resample(*self._patients_of(values.index), self.seed)
        low, high = np.clip(resampling.interval(values.to_numpy(), comparisons), *bounds)
        return float(low), float(high)

    def _patients_of(self, pairs: pd.MultiIndex) -> list[np.ndarray]:
        return [pairs.get_level_values(name).map(self.patients).to_numpy() for name in SCANS]

    @cached_property
    def tests(self) -> pd.DataFrame:
        """All methods compared with each other, see `compare`."""
        return compare(self.dice, self.resampling)

    @cached_property
    def ranks(self) -> Ranks:
        """All methods ranked, see `rank`."""
        return rank(self.dice, self.fixed, self.moving, self.resampling)


def gather(
    metrics: pd.DataFrame,
    methods: Sequence[dict],
    tasks: Sequence[str],
    patients: Mapping[str, str],
    seed: int,
) -> dict[str, Comparison]:
    """Bring the scores of each task together; `patients` are those of each scan."""
    pairs = pair_values(metrics)
    return {
        task: Comparison(pairs[pairs["task"] == task], methods, patients, seed) for task in tasks
    }
