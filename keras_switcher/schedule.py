"""The phases of a training: the callback that moves a model through them, and warnings."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_switcher.alternation import SETTLE
from keras_switcher.settling import check_kernel

logger = logging.getLogger(__name__)

# The offset alone takes about this many turns to go from a dense layer to a sparse one.
_ENOUGH_TURNS = 20
# Below this sparsity, a training without a target has turned off hardly anything.
_NEARLY_DENSE = 0.01
# A step later than any training reaches.
_UNKNOWN = 2**30


class PhaseSchedule(keras.callbacks.Callback):
    """Plans the phases from the length of training, and settles the model when its time comes.

    `SwitchedModel.fit` adds it. If Keras does not know the number of steps of an epoch (for a
    generator without a length), the first epoch is warm-up and the plan is made after it; a model
    that continues an earlier training already has its plan.
    """

    def __init__(self) -> None:
        super().__init__()
        self._step = 0
        self._steps: int | None = None
        self._is_last = False
        self._settle_step: int | None = None
        self._first_epoch: int | None = None
        self._first_step = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        state = self.model.alternation_state
        # Not earlier: a callback may restore a checkpoint when training begins.
        self._step = int(ops.convert_to_numpy(state.step))
        # An epoch must depend on nothing that a checkpoint does not hold.
        self.model.forget_switch_gradients()
        self.model.open_if_new()
        if self._first_epoch is None:
            self._first_epoch, self._first_step = epoch, self._step
        begin, ramp_end, settle = (int(each) for each in ops.convert_to_numpy(state.plan))
        goes_on = self._step >= max(begin, 1)
        steps = self.params.get("steps")
        if steps is None and epoch > self._first_epoch:
            steps = (self._step - self._first_step) // (epoch - self._first_epoch)
        elif steps is None and epoch and not goes_on:
            # Training continues after the epoch whose end would have told the number of steps.
            steps = self._step // epoch
        if steps:
            # With `initial_epoch`, a new model has fewer epochs left; one that continues has done
            # the epochs before it.
            left = self.params["epochs"] - self._first_epoch
            before = begin
            begin, ramp_end, settle = self.model.alternation.plan(self._first_step + steps * left)
            if goes_on:
                # The model alternates already: a longer training must not take it back to warm-up.
                begin = min(begin, before)
        elif goes_on:
            # Keep the plan, but a training that begins must not settle by the plan of the last one.
            settle = settle if epoch else _UNKNOWN
        else:
            # As if training had no end, so that nothing but warm-up happens.
            begin = ramp_end = settle = _UNKNOWN
        self._steps = steps
        self._is_last = epoch + 1 >= self.params["epochs"]
        state.plan.assign((begin, ramp_end, settle))
        if steps and self._settle_step is None:
            self._warn_of_few_turns(settle - begin)
        self._settle_step = settle

    def _warn_of_few_turns(self, steps: int) -> None:
        model = self.model
        turns = steps // model.alternation.task_steps
        if model.learns_switches and model.phase != SETTLE and turns < _ENOUGH_TURNS:
            logger.warning(
                "The switcher has %d turns in this training, one after every %d steps of the %d in "
                "which the networks alternate: too few to learn much. Train for more epochs, or "
                "set a smaller task_steps.",
                turns,
                model.alternation.task_steps,
                steps,
            )

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._settle_at(self._step + batch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # No batch comes after the last one, but the validation does.
        if self._is_last and self._steps is not None and batch + 1 >= self._steps:
            self._settle_at(self._step + batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # If the time is now, the next epoch's first batch settles the model: what this epoch was
        # validated with is then also what is saved of it. But there may be no further batch, and
        # an execution of several steps may have passed the time.
        step = int(ops.convert_to_numpy(self.model.alternation_state.step))
        if self.model.learns_switches and not self.model.stop_training:
            self._check_switchers(epoch, (logs or {}).get("loss"))
        self._settle_at(step if self._is_last else step - 1)

    def _check_switchers(self, epoch: int, loss: float | None) -> None:
        """Check that the switchers' weights are numbers: if not, their layers lose all switches."""
        reason = (
            "it has returned logits that are not, such as the logarithm of 0, or its learning rate "
            "is too high."
        )
        is_finite = loss is None or math.isfinite(loss)
        if not is_finite:
            reason = f"they learn by the gradient of the loss, which is {loss}."
        for layer in self.model.switched_layers():
            for variable in layer.switcher_variables:
                if not np.isfinite(ops.convert_to_numpy(variable)).all():
                    if is_finite:
                        check_kernel(layer)
                    raise FloatingPointError(
                        f"The weights of the switcher of layer '{layer.name}', a "
                        f"{type(layer.switcher).__name__}, are not finite after epoch {epoch + 1}: "
                        f"{reason}"
                    )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        # A callback may have ended the training.
        self._settle_at(int(ops.convert_to_numpy(self.model.alternation_state.step)))

    def _settle_at(self, step: int) -> None:
        if self._settle_step is not None and step >= self._settle_step:
            self._settle_step = None
            self.model.settle()


def warn_of_early_callbacks(
    callbacks: Sequence[Any], epochs: int, settle: float, first: int = 0
) -> None:
    """Warn of callbacks that judge a network by its loss before it is sparse.

    Args:
        callbacks: Those of a training.
        epochs: The epoch at which it ends.
        settle: The share of its epochs in the phase "settle".
        first: The epoch at which its phases begin.
    """
    sparse_from = first + int((1 - settle) * (epochs - first) + 1e-9)
    listed = [getattr(each, "callbacks", [each]) for each in callbacks]
    for callback in keras.tree.flatten(listed):
        if str(getattr(callback, "monitor", None)).endswith("sparsity"):
            continue
        if isinstance(callback, keras.callbacks.ReduceLROnPlateau):
            logger.warning(
                "ReduceLROnPlateau lowers the learning rate before the structure settles: while "
                "connections go, the loss may well rise. Use a schedule instead, or take it out "
                "and `fit` once more with it afterwards: a settled model stays sparse."
            )
        elif isinstance(callback, keras.callbacks.ModelCheckpoint) and callback.save_best_only:
            logger.warning(
                "ModelCheckpoint(save_best_only=True) may keep an epoch of before the structure "
                "settles, whose network is dense or half sparse, in %s. Take it out, and `fit` "
                "once more with it afterwards: a settled model stays sparse.",
                callback.filepath,
            )
        elif (
            isinstance(callback, keras.callbacks.EarlyStopping)
            and callback.start_from_epoch < sparse_from
            # Otherwise it can neither stop nor go back.
            and (callback.patience < epochs or callback.restore_best_weights)
        ):
            logger.warning(
                "EarlyStopping compares the sparse network with epochs of before the structure "
                "settles, in which it is dense or half sparse. Let it wait until then, by "
                "EarlyStopping(start_from_epoch=%d).",
                sparse_from,
            )


def warn_of_the_end(model: Any, first_phase: str, first_step: int, had_epochs: bool) -> None:
    """Warn of a training without a turn of the switchers, that ended too early, or to no effect.

    Args:
        model: The `SwitchedModel`, after it.
        first_phase: Its phase before it.
        first_step: Its number of steps before it.
        had_epochs: Whether there was any epoch.
    """
    steps = int(ops.convert_to_numpy(model.alternation_state.step)) - first_step
    if had_epochs and steps == 0 and first_phase != SETTLE:
        logger.warning(
            "The switcher had no turn, as `train_step` of %s replaces that of SwitchedModel. "
            "Let it return super().train_step(data), and change the loss in `compute_loss`.",
            type(model).__name__,
        )
    elif model.target_sparsity is not None and model.phase != SETTLE:
        logger.warning(
            "Training ended in phase '%s' at sparsity %.4f, before the structure settled at "
            "the target %.4f. Train on, or call model.settle() and fine-tune. A callback that "
            "stops early or restores the best weights must wait for the settle phase, for "
            "example EarlyStopping(start_from_epoch=...).",
            model.phase,
            model.sparsity,
            model.target_sparsity,
        )
    elif had_epochs and model.target_sparsity is None and first_phase != SETTLE:
        sparsity = model.sparsity
        if sparsity < _NEARLY_DENSE:
            logger.warning(
                "The model was trained without a target, and its sparsity is %.4f: the loss alone "
                "turns off hardly anything. Give compile() a `target_sparsity`, such as 0.9.",
                sparsity,
            )
