"""The callback with which `SwitchedModel.fit` moves a model through its phases."""

import logging
from typing import Any

import keras
from keras import ops

from keras_switcher.alternation import SETTLE

logger = logging.getLogger(__name__)


class PhaseSchedule(keras.callbacks.Callback):
    """Plans the phases from the length of training, and settles the model when its time comes.

    `SwitchedModel.fit` adds it. Where Keras does not know the number of steps of an epoch (a
    generator without a length), the first epoch is warm-up, and the plan follows after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._step = 0
        self._settle_step: int | None = None
        self._first_epoch: int | None = None
        self._first_step = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        state = self.model.alternation_state
        # Not earlier: a callback may restore a checkpoint when training begins.
        self._step = int(ops.convert_to_numpy(state.step))
        if self._first_epoch is None:
            self._first_epoch, self._first_step = epoch, self._step
        steps = self.params.get("steps")
        if steps is None and epoch > self._first_epoch:
            steps = (self._step - self._first_step) // (epoch - self._first_epoch)
        epochs = self.params["epochs"]
        # Unknown yet: as if training had no end, so that nothing but warm-up happens.
        begin, ramp_end, settle = (
            self.model.alternation.plan(steps * epochs) if steps else (2**30, 2**30, 2**30)
        )
        state.plan.assign((begin, ramp_end, settle))
        self._settle_step = settle
        self._epoch_step = self._step

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._settle_step is not None and self._epoch_step + batch >= self._settle_step:
            self._settle_step = None
            if not int(ops.convert_to_numpy(self.model.alternation_state.settled)):
                self.model.settle()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        target = self.model.target_sparsity
        if target is not None and self.model.phase != SETTLE:
            logger.warning(
                "Training ended in phase '%s' at sparsity %.4f, before the structure settled at "
                "the target %.4f. Train on, or call model.settle() and fine-tune.",
                self.model.phase,
                self.model.sparsity,
                target,
            )
