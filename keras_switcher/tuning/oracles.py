"""The oracles of Keras Tuner, made to survive a kill at any moment."""

import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.oracles import (
    BayesianOptimizationOracle,
    HyperbandOracle,
    RandomSearchOracle,
)
from sklearn.exceptions import ConvergenceWarning
from tensorflow.errors import OpError

from keras_switcher.files import RunError, write_text, writing
from keras_switcher.tuning.folder import TRIAL_FILE, damaged
from keras_switcher.tuning.objective import objective

# How far apart the seeds of two searches are: more than the number of values a search draws.
_DRAWS = 100_003

# The search gives up when this many trials have failed one after the other.
MOST_FAILURES = 3


class Durable(keras_tuner.Oracle):
    """What this package adds to an oracle.

    Keras Tuner writes the state file in place, and not after a trial has left the list of those
    under way. So a kill may leave half a file, and a search that goes on may run a finished trial
    again, or never run one that it had just begun (keras-tuner 1.4.8). And it writes by TensorFlow,
    whose errors are no `OSError`. Here every file is put in place by a rename, and `reload`
    compares the state with the trials.

    An oracle writes in `save` and `_save_trial`; the latter, like `_get_oracle_fname` and
    `_retry_queue`, is not public.
    """

    trials: dict[str, Trial]
    # Set after the oracle is made, as each kind of oracle takes other arguments.
    ended: Callable[["Durable"], object] | None = None
    keeps_workers = False
    # The error that occurred in writing. If it were raised where it occurs, Keras Tuner's lock
    # would stay locked.
    error: Exception | None = None
    # Whether so many trials have failed in a row that the search ends.
    gave_up = False
    _ended_before = 0

    def save(self) -> None:
        """Write the state as one atomic unit."""
        write_text(Path(self._get_oracle_fname()), json.dumps(self.get_state()))

    def _save_trial(self, trial: Trial) -> None:
        # Keras Tuner's own way to it would make the folder by TensorFlow.
        folder = Path(self._project_dir, f"trial_{trial.trial_id}")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / TRIAL_FILE, json.dumps(trial.get_state()))

    def reload(self) -> None:
        """Read the state; trials that were under way are run again.

        With workers on machines of their own (`keeps_workers`), which outlive a chief that is
        killed, such a trial stays with its worker.

        Raises:
            RunError: If the state or a trial is damaged or missing.
        """
        try:
            self._reload()
        except (ValueError, KeyError, TypeError, RuntimeError, OpError) as error:
            # A trial that is damaged has been found before.
            raise damaged(Path(self._get_oracle_fname()), "the state of its trials") from error

    def _reload(self) -> None:
        super().reload()
        under_way = dict(self._under_way)
        # In the order of their start, in which a Gaussian process sums over them. A trial that had
        # been written when the state had not is left out: its number is given out again.
        self.trials = {number: self.trials[number] for number in self.start_order}
        self.end_order += [
            number
            for number in self.start_order
            if _has_ended(self.trials[number]) and number not in self.end_order
        ]
        waiting = [n for n in self.start_order if not _has_ended(self.trials[n])]
        if self.keeps_workers and self._kept_workers:
            self.ongoing_trials = {w: self.trials[n] for w, n in under_way.items() if n in waiting}
            waiting = [n for n in waiting if n not in under_way.values()]
        self._retry_queue = waiting[::-1]
        self._ended_before = len(self.end_order)

    def get_state(self) -> dict[str, Any]:
        """Return Keras Tuner's state, and whether the workers outlive the chief."""
        return {**super().get_state(), "keeps_workers": self.keeps_workers}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over the state that `get_state` returned."""
        self._under_way = state["ongoing_trials"]
        self._kept_workers = state["keeps_workers"]
        known = {w: n for w, n in state["ongoing_trials"].items() if n in self.trials}
        super().set_state({**state, "ongoing_trials": known})

    @keras_tuner.synchronized
    def create_trial(self, tuner_id: str) -> Trial:
        """Return the next trial, or one with status STOPPED once the search has failed."""
        if self.error is None and (not self.gave_up or tuner_id in self.ongoing_trials):
            try:
                return super().create_trial(tuner_id)
            except (RunError, OSError) as error:
                self.error = error
        # Also of a trial whose end could not be written: the chief waits until there is none left.
        self.tuner_ids.discard(tuner_id)
        self.ongoing_trials.pop(tuner_id, None)
        return Trial(self.get_space(), status=TrialStatus.STOPPED)

    @keras_tuner.synchronized
    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> Any:
        """Record the metrics of a trial so far."""
        try:
            return super().update_trial(trial_id, metrics, step)
        except (RunError, OSError) as error:
            self.error = error
            return self.trials[trial_id]

    @keras_tuner.synchronized
    def end_trial(self, trial: Trial) -> None:
        """Record how a trial ended, and call `ended`; once, even if a worker says it again."""
        if trial.trial_id in self.end_order:
            return
        try:
            super().end_trial(trial)
            # The trial's worker may have outlived a chief that had put the trial back into the
            # queue.
            self._retry_queue = [n for n in self._retry_queue if n != trial.trial_id]
            self.save()
            # For good, whatever becomes of the trials of other workers.
            self.gave_up = self.gave_up or self.failures >= MOST_FAILURES
            if self.ended is not None:
                self.ended(self)
        except (RunError, OSError) as error:
            self.error = error

    @property
    def failures(self) -> int:
        """The number of trials that have failed in a row, in this process."""
        failed = 0
        for number in reversed(self.end_order[self._ended_before :]):
            if self.trials[number].status != TrialStatus.FAILED:
                break
            failed += 1
        return failed

    @property
    def ended_trials(self) -> list[Trial]:
        """The trials that have ended, in order of ending."""
        return [self.trials[number] for number in self.end_order]


def _has_ended(trial: Trial) -> bool:
    return trial.status in (TrialStatus.COMPLETED, TrialStatus.FAILED)


class Hyperband(Durable, HyperbandOracle):
    """Hyperband with three rungs: a ninth, a third and all of the epochs, again and again.

    With fewer epochs, a training with a warm-up and a settled end says nothing about a longer one.

    Args:
        max_epochs: Epochs of a trial on the highest rung.
        max_trials: Trials in all; each rung that a combination climbs is another trial.
        seed: Seed of the values that are drawn.
    """

    def __init__(self, max_epochs: int, max_trials: int, seed: int):
        super().__init__(
            objective(),
            max_epochs=max_epochs,
            hyperband_iterations=None,
            seed=seed,
            max_consecutive_failed_trials=math.inf,
        )
        self.max_trials = max_trials
        # Keras Tuner's own least number of epochs is one, whatever the greatest, and it has begun
        # with that. (Dividing by 3 twice may give a little less than dividing by 9 once.)
        self.min_epochs = max(1, (1 - 1e-9) * max_epochs / self.factor**2)
        self._brackets: list[Any] = []
        self._current_bracket = self._get_num_brackets() - 1
        self._start_new_bracket()


class Bayesian(Durable, BayesianOptimizationOracle):
    """Bayesian optimisation by a Gaussian process; every trial has all epochs.

    The first third of the trials is random. (Keras Tuner's default, three for each hyperparameter,
    would be more than most searches have.)

    Args:
        max_trials: Trials in all.
        seed: Seed of the values that are drawn.
    """

    def __init__(self, max_trials: int, seed: int):
        super().__init__(
            objective(),
            max_trials,
            num_initial_points=max(3, max_trials // 3),
            seed=seed,
            max_consecutive_failed_trials=math.inf,
        )

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Choose the values of a trial, by the same random numbers before and after a kill.

        The state of an oracle lacks that of its random generator, which is not public.
        """
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        with warnings.catch_warnings():
            # That a length scale is at its bound, as it often is with few trials: there is nothing
            # that a user could do about it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            chosen: dict[str, Any] = super().populate_space(trial_id)
        return chosen


class Random(Durable, RandomSearchOracle):
    """Random search; every trial has all epochs.

    Args:
        max_trials: Trials in all.
        seed: Seed of the values that are drawn.
    """

    def __init__(self, max_trials: int, seed: int):
        super().__init__(objective(), max_trials, seed=seed, max_consecutive_failed_trials=math.inf)


def make(name: str, trials: int, max_epochs: int, seed: int) -> Durable:
    """Return a new oracle.

    Args:
        name: "hyperband", "bayesian" or "random".
        trials: Trials in all, >= 1.
        max_epochs: Epochs of a trial, at most.
        seed: Seed of the values that are drawn; given 0, Keras Tuner's oracles would draw a seed.
    """
    # Keras Tuner adds 1 to the seed for every value that it draws, so the next seed would draw the
    # same values, shifted by one. And it takes 0 for no seed.
    seed = 1 + seed * _DRAWS % 2**31
    if name == "hyperband":
        return Hyperband(max_epochs, trials, seed)
    return {"bayesian": Bayesian, "random": Random}[name](trials, seed)
