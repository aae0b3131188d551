"""How much each hyperparameter matters for the objective of a search."""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import GroupKFold

from keras_switcher.tuning.results import EndedTrial
from keras_switcher.tuning.space import Range

# With fewer trials at one budget, no importance is reported.
LEAST_TRIALS = 10
_FOLDS = 5
_REPEATS = 5
_SHUFFLES = 5
_TREES = 60


@dataclasses.dataclass(frozen=True)
class Importance:
    """How much worse a forest predicts when the values of one hyperparameter are shuffled.

    Args:
        name: The hyperparameter.
        mean: By how much R² of held-out trials falls, the mean over repeats; at 0 or below it does
            not matter.
        spread: The standard deviation over the repeats.
    """

    name: str
    mean: float
    spread: float

    @property
    def is_told(self) -> bool:
        """Whether it stands out from the spread over the repeats."""
        return self.mean > 2 * self.spread


@dataclasses.dataclass(frozen=True)
class Importances:
    """How much the hyperparameters of a search matter, and how far that can be trusted.

    Args:
        trials: How many trials were used: all with an objective, those stopped early included.
        settings: How many different settings of the hyperparameters these have.
        most_at_one_budget: How many of them have the most frequent budget.
        r_squared: Share of the variance of the objective's ranks, each among the trials of one
            budget, that the forest explains in trials that it was not fitted to, the mean over
            repeats; `None` if there are too few trials.
        r_squared_spread: Its standard deviation over the repeats.
        parameters: The importances, greatest first; empty if there are too few trials.
        constant: Names of hyperparameters that had one value only, which have no importance.
    """

    trials: int
    settings: int
    most_at_one_budget: int
    r_squared: float | None = None
    r_squared_spread: float = 0.0
    parameters: tuple[Importance, ...] = ()
    constant: tuple[str, ...] = ()

    @property
    def has_enough_trials(self) -> bool:
        """Whether there are enough trials, and settings, for anything to be said."""
        return min(self.most_at_one_budget, self.settings) >= LEAST_TRIALS

    @property
    def chance(self) -> float:
        """The value that R² stays below in 19 of 20 searches whose objective is noise.

        Predictions and noise correlate by chance, with a variance of `1 / (settings - 1)`, and R²
        is at most the square of a correlation.
        """
        return 1.645**2 / max(1, self.settings - 1)

    @property
    def explains(self) -> bool:
        """Whether the forest explains more than chance; if not, the importances mean nothing."""
        return self.r_squared is not None and self.r_squared > self.chance


def importances(
    trials: Sequence[EndedTrial], space: Mapping[str, Range], seed: int = 0
) -> Importances:
    """Find how much each hyperparameter matters for the objective.

    A random forest predicts the objective's rank from the hyperparameters. It predicts ranks, since
    a trial that misses its target lies far below all others; and they are ranks among the trials of
    one budget, since more epochs are better, and explain more than all else together. The budget is
    one more input, as a hyperparameter may matter only for a short training. An importance is the
    loss of R², in trials that the forest was not fitted to, when a hyperparameter's values are
    shuffled among them. Trials with the same hyperparameters and different budgets are never on
    both sides.

    A hyperparameter that is inactive in a trial gets a value there that is drawn from the active
    ones, anew in each repeat, and only active values are shuffled. A mark for "inactive" would show
    the forest the value of the hyperparameter that it depends on, such as the switcher's kind, and
    take over that one's importance.

    Args:
        trials: The trials; failed ones are left out.
        space: The hyperparameters by name; every value of a trial is within its range.
        seed: Seed of the forests and the shuffles; the same seed gives the same result.

    Example:

    ```python
    for importance in importances(results.trials, results.space).parameters:
        print(importance.name, importance.mean)
    ```
    """
    scored = [trial for trial in trials if trial.objective is not None]
    most = max(collections.Counter(t.epochs for t in scored).values(), default=0)
    columns = {
        name: np.array(
            [
                math.nan if (value := trial.values.get(name)) is None else range_.position(value)
                for trial in scored
            ]
        )
        for name, range_ in space.items()
    }
    constant = tuple(n for n, column in columns.items() if len(set(column[_active(column)])) < 2)
    names = [name for name in columns if name not in constant]
    settings = [str(sorted(trial.values.items())) for trial in scored]
    found = Importances(len(scored), len(set(settings)), most, constant=constant)
    if not found.has_enough_trials or not names:
        return found
    budgets = np.array([float(trial.epochs) for trial in scored])
    table = np.column_stack([*(columns[name] for name in names), np.log(budgets)])
    groups = np.unique(settings, return_inverse=True)[1]
    ranks = np.zeros(len(scored))
    for budget in set(budgets):
        of_budget = budgets == budget
        ranks[of_budget] = _ranks(np.array([t.objective for t in scored], float)[of_budget])
    scores, losses = _scores(table, ranks, groups, np.random.default_rng(seed))
    ranking = sorted(
        (
            Importance(name, float(loss.mean()), float(loss.std()))
            for name, loss in zip(names, losses.T, strict=False)
        ),
        key=lambda importance: -importance.mean,
    )
    return dataclasses.replace(
        found,
        r_squared=float(scores.mean()),
        r_squared_spread=float(scores.std()),
        parameters=tuple(ranking),
    )


def _active(column: np.ndarray) -> np.ndarray:
    return np.isfinite(column)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return each value's rank, from -0.5 to 0.5; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts + 1) / 2)[inverse]
    return np.asarray((ranks - ranks.mean()) / max(1, len(values) - 1))


def _scores(
    table: np.ndarray, target: np.ndarray, groups: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return R² of held-out rows, and its loss by shuffling each column, for each repeat.

    Args:
        table: Rows of hyperparameters, NaN where inactive.
        target: The values to predict.
        groups: Rows with the same number are held out together.
        random: The random generator.
    """
    variance = max(((target - target.mean()) ** 2).sum(), 1e-12)
    scores, losses = [], []
    for _ in range(_REPEATS):
        filled = _fill(table, random)
        plain = np.zeros(len(table))
        shuffled = np.zeros((table.shape[1], _SHUFFLES, len(table)))
        folds = GroupKFold(_FOLDS, shuffle=True, random_state=int(random.integers(2**31)))
        for train, test in folds.split(filled, groups=groups):
            forest = RandomForestRegressor(
                _TREES, max_features=0.5, random_state=int(random.integers(2**31))
            ).fit(filled[train], target[train])
            # All in one call: a forest takes as long to start as to predict.
            tables = [filled[test]]
            for column in range(table.shape[1]):
                active = _active(table[test, column])
                for _ in range(_SHUFFLES):
                    rows = filled[test].copy()
                    rows[active, column] = random.permutation(rows[active, column])
                    tables.append(rows)
            predicted = forest.predict(np.concatenate(tables)).reshape(len(tables), -1)
            plain[test] = predicted[0]
            shuffled[..., test] = predicted[1:].reshape(table.shape[1], _SHUFFLES, -1)
        error = ((plain - target) ** 2).sum() / variance
        scores.append(1 - error)
        losses.append(((shuffled - target) ** 2).sum(axis=-1).mean(axis=1) / variance - error)
    return np.array(scores), np.array(losses)


def _fill(table: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Replace each inactive value by one drawn from the active values of its column."""
    filled = table.copy()
    for column in filled.T:
        active = _active(column)
        column[~active] = random.choice(column[active], (~active).sum())
    return filled
