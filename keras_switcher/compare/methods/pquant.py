"""Methods of PQuantML, through its dense layer for Keras and its callback.

The package is in an extra of its own, as it brings in a quantiser under the LGPL and a database.
"""

import importlib.util
import math
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_switcher.compare.method import Method, Trained, register
from keras_switcher.compare.plan import COURSE, TRAINING
from keras_switcher.compare.soft_masks import without_sorting
from keras_switcher.compare.work import Work, fit_at_once
from keras_switcher.config import Config
from keras_switcher.extras import install_command
from keras_switcher.files import RunError
from keras_switcher.nesting import walk
from keras_switcher.networks import Start, alternation_of, compiled_dense
from keras_switcher.settling import choose_on
from keras_switcher.state import copy_weights

# How often the strength of a penalty is adapted, if that is not oftener than after so many batches:
# a short training would be far from its target when it has to meet it, but thresholds take a while
# to follow.
_TIMES, _LEAST_BATCHES = 25, 50


class _Pquant(Method):
    """A method of PQuantML, which prunes the dense layers and quantises nothing.

    Its phases are those of the switcher's recipe in whole epochs: it trains densely in the warm-up,
    prunes, and fine-tunes what is left when the switcher would settle.
    """

    name: ClassVar[str]
    reads = TRAINING | COURSE

    def check(self, config: Config, start: Start) -> None:
        if importlib.util.find_spec("pquant") is None:
            raise RunError(f"The method needs PQuantML: {install_command('pquant')}")
        if config.execution.precision != "float32":
            raise RunError(
                "Expected --precision float32: PQuantML's sums overflow in half precision. "
                f"Received: {config.execution.precision}"
            )
        if not config.switching.target_sparsity:
            raise RunError(
                "Expected a --sparsity above 0: PQuantML has nothing to prune. Received: 0"
            )
        for _, layer in walk(start.learned):
            if not isinstance(layer, keras.layers.Dense):
                continue
            if layer not in start.learned.layers:
                raise RunError(
                    "Expected all dense layers to be layers of the network itself, as PQuantML "
                    f"has it. Received: '{layer.name}', in a layer or a model inside it. Leave "
                    "pquant-* out of --methods."
                )
            if layer.kernel_constraint or layer.bias_constraint:
                raise RunError(
                    "Expected dense layers without constraints, which PQuantML's do not have. "
                    f"Received: '{layer.name}'. Leave pquant-* out of --methods."
                )

    def train(self, work: Work) -> Trained:
        import pquant
        from pquant.core.keras.train import PQuantCallback

        start = work.start()
        before, pruning, after = _epochs(work)
        config = getattr(pquant, f"{self.name}_config")()
        config.quantization_parameters.enable_quantization = False
        config.training_parameters.pretraining_epochs = before
        config.training_parameters.epochs = pruning
        config.training_parameters.fine_tuning_epochs = after
        self.configure(config.pruning_parameters, work, pruning)
        model, pruned = _with_layers_of_pquant(start.learned, config)
        self.prepare(model, pruned, work, pruning)
        compiled_dense(work.config, work.data, start, model, undecayed=self.thresholds(pruned))
        theirs = PQuantCallback(config, log_ebops=False, log_keep_ratio=False)
        first = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: self.begin(pruned, epoch - before),
            on_train_batch_end=lambda batch, logs: work.stop.check(),
        )
        within = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: self.within(
                pruned, config.pruning_parameters, work, batch + 1
            )
        )
        last = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: self.end(
                pruned, config.pruning_parameters, work, epoch - before
            )
        )
        seconds = fit_at_once(work, model, [first, within, theirs, last])
        for own, copy in zip(start.learned.layers, model.layers, strict=True):
            own.set_weights([keras.ops.convert_to_numpy(weight) for weight in _weights(copy)])
        work.keep(start.learned)
        learned = compiled_dense(work.config, work.data, start, start.learned)
        return self.measured(learned, work, seconds)

    def configure(self, parameters: Any, work: Work, epochs: int) -> None:
        """Set the parameters of the method that differ from those the package comes with.

        Args:
            parameters: `pruning_parameters` of its configuration.
            work: The work.
            epochs: Number of epochs in which it prunes.
        """
        raise NotImplementedError

    def prepare(self, model: keras.Model, layers: list[Any], work: Work, epochs: int) -> None:
        """Do what the method needs before a step of the model is traced.

        Args:
            model: The model that will be trained.
            layers: The layers that it prunes.
            work: The work.
            epochs: Number of epochs in which it prunes.
        """

    def thresholds(self, layers: list[Any]) -> list[Any]:
        """Return the variables that it trains besides the weights, which must not decay with them.

        Args:
            layers: The layers that it prunes.
        """
        return []

    def begin(self, layers: list[Any], epoch: int) -> None:
        """Do what the method needs before an epoch.

        Args:
            layers: The layers that it prunes.
            epoch: Number of the epoch, counted from the first one in which it prunes.
        """

    def within(self, layers: list[Any], parameters: Any, work: Work, batches: int) -> None:
        """Do what the method needs within an epoch.

        Args:
            layers: The layers that it prunes.
            parameters: `pruning_parameters` of its configuration.
            work: The work.
            batches: Number of batches of the epoch so far.
        """

    def end(self, layers: list[Any], parameters: Any, work: Work, epoch: int) -> None:
        """Do what the method needs after an epoch.

        Args:
            layers: The layers that it prunes.
            parameters: `pruning_parameters` of its configuration.
            work: The work.
            epoch: Number of the epoch, counted from the first one in which it prunes.
        """


@register("pquant-dst")
class Dst(_Pquant):
    """Dynamic sparse training: a trained threshold for the weights of every unit.

    It knows no target: the strength of its penalty decides how sparse a network becomes. That
    strength starts from the authors' value for MNIST. After each epoch in which it prunes, and in a
    short training also within them, about 25 times in all but never within 50 batches, it is
    multiplied by the ratio of the odds of the density two such times later, if they go on changing
    as they do, to the odds of the target density, but at least by 1/2 and at most by 2. The
    remaining difference is made up before fine-tuning: the connections whose weights are furthest
    above their thresholds stay on.

    Reference:
        [Liu et al., 2020](https://arxiv.org/abs/2005.06870).
    """

    title = "PQuantML, DST"
    # It has no course.
    reads = (TRAINING | COURSE) - {"ramp"}
    name = "dst"

    def configure(self, parameters: Any, work: Work, epochs: int) -> None:
        self._odds: float | None = None
        # As in the authors' code, https://github.com/junjieliu2910/DynamicSparseTraining. In the
        # package's own configuration there is a threshold for every weight, and the penalty is a
        # hundredth of this.
        parameters.threshold_type = "channelwise"
        # Above this share, a layer's thresholds would start again from 0.
        parameters.max_pruning_pct = 1.0
        # A variable, because the penalty is compiled into the step.
        parameters.alpha = keras.Variable(5e-4, trainable=False, dtype="float32")

    def thresholds(self, layers: list[Any]) -> list[Any]:
        return [layer.pruning_layer.threshold for layer in layers]

    def begin(self, layers: list[Any], epoch: int) -> None:
        self._epoch, self._part = epoch, 0

    def within(self, layers: list[Any], parameters: Any, work: Work, batches: int) -> None:
        _, pruning, _ = _epochs(work)
        if not 0 <= self._epoch < pruning or batches == work.steps_per_epoch:
            return
        # In an epoch, its end included.
        times = min(math.ceil(_TIMES / pruning), work.steps_per_epoch // _LEAST_BATCHES)
        part = batches * times // work.steps_per_epoch
        if part > self._part:
            self._part = part
            self._adapt(layers, parameters, work)

    def _adapt(self, layers: list[Any], parameters: Any, work: Work) -> None:
        masks = [layer.pruning_layer.mask for layer in layers]
        density = float(sum(keras.ops.sum(mask) for mask in masks))
        density /= sum(math.prod(mask.shape) for mask in masks)
        odds = _odds(density)
        # Thresholds keep moving for a while, so without looking ahead the density would swing.
        ahead = odds * (1.0 if self._odds is None else odds / self._odds) ** 2
        self._odds = odds
        change = ahead / _odds(1 - work.target_sparsity)
        parameters.alpha.assign(parameters.alpha * min(max(change, 0.5), 2.0))

    def end(self, layers: list[Any], parameters: Any, work: Work, epoch: int) -> None:
        _, pruning, _ = _epochs(work)
        if not 0 <= epoch < pruning:
            return
        if epoch < pruning - 1:
            self._adapt(layers, parameters, work)
            return
        masks = [layer.pruning_layer.mask for layer in layers]
        above = [
            np.abs(keras.ops.convert_to_numpy(layer._kernel).T)
            - keras.ops.convert_to_numpy(layer.pruning_layer.threshold)
            for layer in layers
        ]
        sizes = [np.ones((len(each), 1), "float32") for each in above]
        for mask, on in zip(masks, choose_on(above, sizes, work.target_sparsity), strict=True):
            mask.assign(on.astype("float32"))


@register("pquant-pdp")
class Pdp(_Pquant):
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


def _odds(share: float) -> float:
    share = min(max(share, 1e-6), 1 - 1e-6)
    return share / (1 - share)


def _epochs(work: Work) -> tuple[int, int, int]:
    """Return the epochs before, in and after pruning: those of the switcher's phases."""
    epochs = work.config.optimisation.epochs
    begin, _, settle = alternation_of(work.config).plan(epochs)
    begin = min(begin, epochs - 1)
    settle = max(settle, begin + 1)
    return begin, settle - begin, epochs - settle


def _with_layers_of_pquant(network: keras.Model, config: Any) -> tuple[keras.Model, list[Any]]:
    """Return a copy of a network, with its weights, and the copy's layers that are PQuantML's.

    The package's own `add_compression_layers` accepts only chains of layers, and leaves out average
    pooling and most activations if nothing is quantised.
    """
    from pquant.core.keras.layers import PQDense

    class ActivatedDense(PQDense):
        """PQuantML's dense layer, which has no activation, with one added."""

        def __init__(self, activation: Any, **kwargs: Any) -> None:
            super().__init__(config, **kwargs)
            self.activation = activation

        def call(self, x: Any, training: bool | None = None) -> Any:
            return self.activation(super().call(x, training))

    def clone(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Dense):
            return type(layer).from_config(layer.get_config())
        return ActivatedDense(
            layer.activation,
            units=layer.units,
            use_bias=layer.use_bias,
            kernel_regularizer=layer.kernel_regularizer,
            bias_regularizer=layer.bias_regularizer,
            name=layer.name,
            dtype=layer.dtype_policy,
        )

    copy = keras.models.clone_model(network, clone_function=clone)
    for old, new in zip(network.layers, copy.layers, strict=True):
        if isinstance(new, PQDense):
            new._kernel.assign(old.kernel)
            if old.use_bias:
                new._bias.assign(old.bias)
        else:
            copy_weights(old, new)
    return copy, [layer for layer in copy.layers if isinstance(layer, PQDense)]


def _weights(layer: Any) -> list[Any]:
    """Return the weights of a layer of the copy, after the final compression, as Keras has them."""
    if not hasattr(layer, "pruning_layer"):
        return list(layer.weights)
    return [layer._kernel, *([layer._bias] if layer.use_bias else [])]
