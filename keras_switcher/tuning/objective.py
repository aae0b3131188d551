"""The number that a search maximises: a metric, less a penalty for missing sparsity."""

import time
from collections.abc import Mapping
from typing import Any

import keras
import keras_tuner

from keras_switcher.metrics import switcher_parameters
from keras_switcher.model import SwitchedModel
from keras_switcher.tuning.plan import Terms

NAME = "val_objective"


def objective() -> keras_tuner.Objective:
    """Return the objective for a Keras Tuner: to maximise `val_objective` in the logs."""
    return keras_tuner.Objective(NAME, direction="max")


class LogObjective(keras.callbacks.Callback):
    """Adds `val_objective` to the logs of every epoch, for the callbacks after it and the history.

    Args:
        terms: The terms of the objective.

    Raises:
        ValueError: If the logs lack the metric at the end of an epoch.
    """

    def __init__(self, terms: Terms):
        super().__init__()
        self.terms = terms
        self._step_time = _StepTime()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._step_time = _StepTime()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._step_time.begin_epoch()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._step_time.end_batch(batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None:
            return
        if self.terms.metric not in logs:
            raise ValueError(
                f"Expected {self.terms.metric!r} in the logs: give `search` validation data, and "
                "compile the model with the metric, or name another by `metric`. "
                f"Received: {sorted(logs)}"
            )
        logs[NAME] = self.value(logs)

    def value(self, logs: Mapping[str, Any]) -> float:
        """Return the objective of the model in training.

        Args:
            logs: Its metric, and its sparsity if it has a target.
        """
        model: SwitchedModel = self.model
        missing = 0.0
        if model.target_sparsity is not None:
            # Not `model.sparsity`: a structure that settles after the epoch was not validated.
            missing = max(0.0, model.target_sparsity - float(logs["sparsity"]))
            # A settled model meets the target to within one switch.
            missing = 0.0 if missing <= _largest_switch(model) + 1e-6 else missing
        sign = 1 if self.terms.direction == "max" else -1
        return (
            sign * float(logs[self.terms.metric])
            - self.terms.penalty * missing
            - self.terms.cost_weight * self._cost(model)
        )

    def _cost(self, model: SwitchedModel) -> float:
        if self.terms.cost == "parameters":
            return switcher_parameters(model) / connections(model)
        if self.terms.cost == "seconds":
            return self._step_time.mean()
        return 0.0


class _StepTime:
    """The mean time of a training step over all epochs so far, without validation.

    The switchers' turns count, so this is not the time of the last epoch alone: a network that has
    settled has none. The first call, which compiles the step, counts only as long as there is no
    other.
    """

    def __init__(self) -> None:
        self._begun = 0.0
        self._seconds, self._steps = 0.0, 0
        self._epoch_seconds, self._epoch_steps = 0.0, 0
        self._left_out: int | None = None
        self._first = 0.0

    def begin_epoch(self) -> None:
        self._seconds += self._epoch_seconds
        self._steps += self._epoch_steps
        self._epoch_seconds, self._epoch_steps = 0.0, 0
        if self._left_out is not None:
            self._left_out = 0
        self._begun = time.perf_counter()

    def end_batch(self, batch: int) -> None:
        now = time.perf_counter()
        if self._left_out is None:
            # With several steps in a call, these are all of them.
            self._first = (now - self._begun) / (batch + 1)
            self._begun, self._left_out = now, batch + 1
        self._epoch_seconds = now - self._begun
        self._epoch_steps = batch + 1 - self._left_out

    def mean(self) -> float:
        steps = self._steps + self._epoch_steps
        return (self._seconds + self._epoch_seconds) / steps if steps else self._first


def connections(model: SwitchedModel) -> int:
    """Return the number of connections that a model switches, on or off."""
    return sum(layer.connections for layer in model.switched_layers())


def _largest_switch(model: SwitchedModel) -> float:
    """Return the greatest share of a model's connections that one switch controls."""
    layers = model.switched_layers()
    sizes = [layer.group_sizes().max() for layer in layers]
    return float(max(sizes)) / connections(model)
