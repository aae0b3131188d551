"""Figures of a comparison's results: means, deviations, and paired differences."""

import dataclasses
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from scipy import stats

from keras_switcher.compare.plan import digest
from keras_switcher.report.wording import counted

CONFIDENCE = 0.95
# Keras counts in float32, so equal differences may differ by this much.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Args:
        mean: The mean.
        deviation: The standard deviation over seeds; `None` for a single seed.
        count: Number of seeds.
    """

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Return the mean of values.

        Args:
            values: One or more.
        """
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean of the differences between two methods, seed by seed.

    Args:
        mean: The mean.
        low: The lower end of its confidence interval; `None` for fewer than two seeds.
        high: The upper end.
        count: Number of seeds that both have.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0.

        It has to be of at least three seeds, and of some width: two may agree by chance, and more
        on few examples.
        """
        if self.low is None or self.high is None or self.count < 3:
            return False
        if self.high - self.low < _ROUNDING:
            return False
        return self.low > 0 or self.high < 0


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Return the mean of `first - second` and its confidence interval by Student's t.

    Args:
        first: A value for each seed.
        second: A value for each seed, in the same order.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    found = Mean.of(differences)
    if found.deviation is None:
        return Difference(found.mean, None, None, found.count)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, found.count - 1))
    reach = quantile * found.deviation / math.sqrt(found.count)
    return Difference(found.mean, found.mean - reach, found.mean + reach, found.count)


@dataclasses.dataclass(frozen=True)
class Group:
    """The results of one method at one target sparsity, over its seeds.

    Args:
        method: The method, with its options, as `--methods` names it.
        title: Name in tables and plots.
        target_sparsity: The target; `None` for a method that has none.
        results: One for each seed, in the order of the seeds.
    """

    method: str
    title: str
    target_sparsity: float | None
    results: tuple[dict[str, Any], ...]

    def mean(self, name: str) -> Mean:
        """Return the mean of a figure of the results.

        Args:
            name: Its name in `result.json`.
        """
        return Mean.of([float(result[name]) for result in self.results])

    def layers(self) -> dict[str, float]:
        """Return the mean sparsity of each layer by name."""
        return {
            row["name"]: statistics.fmean(
                1 - result["layers"][index]["on"] / result["layers"][index]["connections"]
                for result in self.results
            )
            for index, row in enumerate(self.results[0]["layers"])
        }

    def minus(self, other: "Group", name: str) -> Difference | None:
        """Return by how much a figure of this group is greater than that of another.

        Args:
            other: The other group; only seeds that both have count.
            name: Name of the figure.

        Returns:
            The difference, or `None` if they have no seed in common.
        """
        own = {result["seed"]: result[name] for result in self.results}
        others = {result["seed"]: result[name] for result in other.results}
        seeds = [seed for seed in own if seed in others]
        if not seeds:
            return None
        return paired_difference([own[s] for s in seeds], [others[s] for s in seeds])


def grouped(results: Iterable[dict[str, Any]]) -> list[Group]:
    """Return the groups of results, in the order of their first appearance.

    Args:
        results: The contents of the cells' `result.json` files.
    """
    found: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    for result in results:
        found.setdefault((result["method"], result["target_sparsity"]), []).append(result)
    return [
        Group(
            method,
            title_of(members[0]),
            target,
            tuple(sorted(members, key=lambda member: member["seed"])),
        )
        for (method, target), members in found.items()
    ]


def off_target(groups: Iterable[Group]) -> str:
    """Return a sentence on the groups whose sparsity is not their target; empty without any.

    Args:
        groups: The groups.
    """
    missed = [
        f"{group.title} at {100 * group.target_sparsity:g} %: {100 * found:.2f} %"
        for group in groups
        if group.target_sparsity is not None
        and abs((found := group.mean("fc_sparsity").mean) - group.target_sparsity) > 5e-4
    ]
    return f"Sparsities that differ from the target: {'; '.join(missed)}." if missed else ""


# Number of characters of a method's options that a table has room for.
_LONGEST_OPTIONS = 70


def title_of(result: dict[str, Any]) -> str:
    """Return the title of a result's method, with its options.

    Args:
        result: The content of `result.json`.
    """
    _, _, options = result["method"].partition(":")
    if len(options) > _LONGEST_OPTIONS:
        number = counted(options.count("="), "option")
        return f"{result['title']}, {number} ({digest(result['method'])})"
    # An empty list: no hidden layer.
    shown = re.sub(r"=(?=,|$)", "=none", options).replace(",", ", ")
    return f"{result['title']}, {shown}" if shown else str(result["title"])
