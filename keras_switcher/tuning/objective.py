"""The number that a search maximises: accuracy, less a penalty for missing sparsity."""

import time
from typing import Any

import keras
import keras_tuner

from keras_switcher.metrics import layer_table
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
        self._start, self._trained, self._steps = 0.0, 0.0, 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._start, self._trained, self._steps = time.perf_counter(), 0.0, 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps = batch + 1
        self._trained = time.perf_counter() - self._start

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None:
            return
        if self.terms.metric not in logs:
            raise ValueError(
                f"Expected {self.terms.metric!r} in the logs: give `search` validation data, and "
                "compile the model with the metric, or name another by `metric`. "
                f"Received: {sorted(logs)}"
            )
        model: SwitchedModel = self.model
        missing = 0.0
        if model.target_sparsity is not None:
            # Not `model.sparsity`: a structure that settles after the epoch was not validated.
            missing = max(0.0, model.target_sparsity - float(logs["sparsity"]))
            # A settled model meets the target to within one switch.
            missing = 0.0 if missing <= _largest_switch(model) + 1e-6 else missing
        logs[NAME] = (
            float(logs[self.terms.metric])
            - self.terms.penalty * missing
            - self.terms.cost_weight * self._cost(model)
        )

    def _cost(self, model: SwitchedModel) -> float:
        if self.terms.cost == "parameters":
            return switcher_parameters(model) / connections(model)
        if self.terms.cost == "seconds":
            return self._trained / max(1, self._steps)
        return 0.0


def switcher_parameters(model: SwitchedModel) -> int:
    """Return the number of weights of all switchers of a model."""
    return sum(int(keras.ops.size(v)) for v in model.switcher_variables)


def connections(model: SwitchedModel) -> int:
    """Return the number of connections that a model switches, on or off."""
    return sum(layer["connections"] for layer in layer_table(model))


def _largest_switch(model: SwitchedModel) -> float:
    """Return the greatest share of a model's connections that one switch controls."""
    layers = model.switched_layers()
    sizes = [layer.granularity.sizes(tuple(layer.kernel.shape)).max() for layer in layers]
    return float(max(sizes)) / connections(model)
