"""PQuantML's parameter-free differentiable pruning: a soft mask by magnitude."""

from typing import Any

import keras
import tensorflow as tf

from keras_switcher.compare.method import register
from keras_switcher.compare.pquantml import PquantMethod
from keras_switcher.compare.soft_masks import without_sorting
from keras_switcher.compare.work import Work


@register("pquant-pdp")
class Pdp(PquantMethod):
    """Parameter-free differentiable pruning: a soft mask by magnitude, at a growing sparsity.

    The sparsity grows by the same amount in each epoch, and reaches its final value when the
    switcher's target does. A layer's final sparsity is the share of its weights that are among the
    smallest of all layers when pruning begins. On a CPU, its mask is computed without a sort of
    all weights, with the same numbers (`keras_switcher.compare.soft_masks`).

    Reference:
        [Cho et al., 2023](https://arxiv.org/abs/2305.11203).
    """

    title = "PQuantML, PDP"
    name = "pdp"

    def configure(self, parameters: Any, work: Work, epochs: int) -> None:
        parameters.sparsity = work.target_sparsity
        # The share of the sparsity that an epoch adds.
        parameters.epsilon = 1 / max(1, round(work.config.alternation.ramp * epochs))

    def prepare(self, model: keras.Model, layers: list[Any], work: Work, epochs: int) -> None:
        # XLA compiles no step that calls NumPy, and a GPU sorts fast.
        if not work.config.execution.jit and not tf.config.list_physical_devices("GPU"):
            for layer in layers:
                without_sorting(layer.pruning_layer)
        self._model, self._changes = model, (0, epochs)

    def begin(self, layers: list[Any], epoch: int) -> None:
        if epoch in self._changes:
            # What was traced before knows whether the mask was in use.
            self._model.make_train_function(force=True)
            self._model.make_test_function(force=True)
        for layer in layers if epoch == 0 else []:
            # Version 0.1.0 writes a layer's share under one name but, in its layers for Keras,
            # reads another.
            layer.pruning_layer._init_r = self.final_sparsity(layer.pruning_layer)

    def final_sparsity(self, pruning: Any) -> float:
        """Return how sparse a layer becomes.

        Args:
            pruning: The package's layer that prunes it, at the first epoch of pruning.
        """
        return float(pruning.init_r)


@register("pquant-pdp-uniform")
class UniformPdp(Pdp):
    """The same, but all layers become equally sparse: as version 0.1.0 does it for Keras."""

    title = "PQuantML, PDP, uniform"

    def final_sparsity(self, pruning: Any) -> float:
        return float(pruning.config.pruning_parameters.sparsity)
