"""The results of a search: the trials that have ended, and the best of them."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence

from keras_switcher.tuning.plan import Plan
from keras_switcher.tuning.space import Range, Value

_KEPT = (
    *("status", "stopped", "objective", "val_accuracy", "sparsity", "epochs", "epochs_run"),
    *("seconds", "switcher_parameters", "worker"),
)


@dataclasses.dataclass(frozen=True)
class EndedTrial:
    """A trial that has ended.

    Args:
        name: Its id.
        status: "COMPLETED" or "FAILED".
        stopped: "hopeless" or "diverged" if it was stopped early, else "".
        objective: The value that the search maximises; `None` if it failed.
        val_accuracy: Validation accuracy of its best epoch, if known.
        sparsity: Share of the switched connections that are off at that epoch, if known.
        epochs: Its budget of epochs.
        epochs_run: Epochs that it ran, if known.
        seconds: Time that it took, if known.
        switcher_parameters: Weights of the switchers, if known.
        worker: Which process ran it.
        values: Its hyperparameters by name; `None` for one that is inactive.
    """

    name: str
    status: str
    stopped: str
    objective: float | None
    val_accuracy: float | None
    sparsity: float | None
    epochs: int
    epochs_run: int | None
    seconds: float | None
    switcher_parameters: int | None
    worker: str
    values: Mapping[str, Value | None]

    @property
    def active_values(self) -> dict[str, Value]:
        """Its hyperparameters by name, without those that are inactive."""
        return {name: value for name, value in self.values.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Results:
    """What a search has come to, whether it is under way or finished.

    Args:
        plan: Its definition.
        trials: The trials that have ended, in that order.
        test_accuracy: Accuracy of the best trial on the test examples; `None` while the search is
            under way.
    """

    plan: Plan
    trials: Sequence[EndedTrial]
    test_accuracy: float | None = None

    @property
    def space(self) -> Mapping[str, Range]:
        """The hyperparameters that differ between trials, by name."""
        return self.plan.space.searched

    @property
    def best(self) -> EndedTrial | None:
        """The best trial, if there is one."""
        return best_of(self.trials)

    def to_csv(self) -> str:
        """Return the trials as CSV, one row each."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["trial", *_KEPT, *(f"hp:{name}" for name in self.space)])
        for trial in self.trials:
            known = [getattr(trial, name) for name in _KEPT]
            writer.writerow([trial.name, *known, *map(trial.values.get, self.space)])
        return text.getvalue()


def best_of(trials: Iterable[EndedTrial]) -> EndedTrial | None:
    """Return the best of the trials with the most epochs.

    Args:
        trials: The trials.

    Returns:
        The one with the greatest objective, the first of equals; `None` if all failed or were
        stopped.
    """
    scored = [t for t in trials if t.objective is not None and not t.stopped]
    most = max((t.epochs for t in scored), default=0)
    longest = [t for t in scored if t.epochs == most]
    return max(longest, key=lambda t: t.objective or 0.0, default=None)
