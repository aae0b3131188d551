"""Methods of PQuantML, by its layers for Keras and its callback.

The package is not among this project's dependencies, as it brings a quantiser under the LGPL and a
database: whoever wants the peers installs it.
"""

import importlib.util
import math
from typing import Any, ClassVar

import keras

from keras_switcher.alternation import Alternation
from keras_switcher.compare.method import Method, Trained, Work, fit_at_once, register
from keras_switcher.compare.methods.dense import dense_layers
from keras_switcher.networks import compiled_dense
from keras_switcher.runs import RunError

# What its penalty or its target may be multiplied by between two epochs, at most.
_LARGEST_CHANGE = math.log(4.0)


class _Pquant(Method):
    """A method of PQuantML: it prunes the dense layers, and quantises nothing.

    Its phases are those of the switcher's recipe: it trains densely in the warm-up, prunes, and
    fine-tunes what is left when the switcher would settle.
    """

    name: ClassVar[str]

    def train(self, work: Work) -> Trained:
        if importlib.util.find_spec("pquant") is None:
            raise RunError("The method needs PQuantML: pip install 'keras-switcher[pquant]'")
        import pquant
        from pquant.core.keras.layers import PQDense
        from pquant.core.keras.train import PQuantCallback

        start = work.start()
        learned = start.learned
        _check(learned)
        config = getattr(pquant, f"{self.name}_config")()
        config.quantization_parameters.enable_quantization = False
        config.quantization_parameters.quantize_input = False
        pretraining, pruning, tuning = _epochs(work)
        config.training_parameters.pretraining_epochs = pretraining
        config.training_parameters.epochs = pruning
        config.training_parameters.fine_tuning_epochs = tuning
        parameters = config.pruning_parameters
        parameters.disable_pruning_for_layers = [
            layer.name for layer in learned.layers if not isinstance(layer, keras.layers.Dense)
        ]
        self.configure(parameters, work, pruning)
        model = pquant.add_compression_layers(learned, config)
        pruned = [layer for layer in model.layers if isinstance(layer, PQDense)]
        compiled_dense(work.config, work.data, start, model)
        stop = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: work.stop.check()
        )
        steps = [PQuantCallback(config, log_ebops=False, log_keep_ratio=False), stop]
        own = self.callback(parameters, pruned, work, range(pretraining, pretraining + pruning))
        seconds = fit_at_once(work, model, steps if own is None else [*steps, own])
        dense = [layer for layer in learned.layers if isinstance(layer, keras.layers.Dense)]
        others = [layer for layer in learned.layers if layer.weights and layer not in dense]
        for layer in others:
            layer.set_weights(model.get_layer(layer.name).get_weights())
        for layer, theirs in zip(dense, pruned, strict=True):
            layer.kernel.assign(theirs.kernel)
            if layer.use_bias:
                layer.bias.assign(theirs.bias)
        work.keep(learned)
        compiled_dense(work.config, work.data, start, learned)
        layers = dense_layers(learned)
        return Trained(
            validation_accuracy=work.accuracy(learned, "validation"),
            test_accuracy=work.accuracy(learned, "test"),
            layers=layers,
            parameters=work.parameters,
            remaining_parameters=work.parameters
            - sum(row["connections"] - row["on"] for row in layers),
            seconds=seconds,
        )

    def configure(self, parameters: Any, work: Work, epochs: int) -> None:
        """Set the parameters of the method that differ from those the package comes with.

        Args:
            parameters: `pruning_parameters` of its configuration.
            work: What to do.
            epochs: Epochs in which it prunes.
        """
        raise NotImplementedError

    def callback(self, parameters: Any, layers: list[Any], work: Work, epochs: range) -> Any:
        """Return a callback of the method's own, or `None`.

        Args:
            parameters: `pruning_parameters` of its configuration.
            layers: The layers that it prunes.
            work: What to do.
            epochs: Epochs in which it prunes.
        """
        return None


@register("pquant-dst")
class Dst(_Pquant):
    """Dynamic sparse training: a trained threshold under every weight.

    It knows no target: the strength of its penalty decides how sparse a network becomes. It starts
    from the package's, and is changed after every epoch by the odds at which the density misses the
    course from dense to the target.

    Reference:
        [Liu et al., 2020](https://arxiv.org/abs/2005.06870).
    """

    title = "PQuantML, DST"
    name = "dst"

    def configure(self, parameters: Any, work: Work, epochs: int) -> None:
        # Above it, a layer's thresholds start again from 0.
        parameters.max_pruning_pct = 1.0
        # A variable, as the penalty is compiled into the step.
        parameters.alpha = keras.Variable(parameters.alpha, trainable=False, dtype="float32")

    def callback(self, parameters: Any, layers: list[Any], work: Work, epochs: range) -> Any:
        final = 1 - work.target_sparsity
        ramp = max(1, round(work.config.alternation.ramp * len(epochs)))

        def steer(epoch: int, logs: Any) -> None:
            if epoch not in epochs:
                return
            on = sum(float(keras.ops.sum(layer.pruning_layer.mask)) for layer in layers)
            density = on / sum(math.prod(layer.pruning_layer.mask.shape) for layer in layers)
            wanted = final ** min(1.0, (epoch - epochs.start + 1) / ramp)
            change = _log_odds(density) - _log_odds(wanted)
            change = max(-_LARGEST_CHANGE, min(_LARGEST_CHANGE, change))
            parameters.alpha.assign(parameters.alpha * math.exp(change))

        return keras.callbacks.LambdaCallback(on_epoch_end=steer)


@register("pquant-pdp")
class Pdp(_Pquant):
    """Parameter-free differentiable pruning: a soft mask by magnitude, at a growing sparsity.

    The same sparsity for every layer: version 0.1.0 of the package computes one for each layer, but
    in its layers for Keras does not use it.

    Reference:
        [Cho et al., 2023](https://arxiv.org/abs/2305.11203).
    """

    title = "PQuantML, PDP"
    name = "pdp"

    def configure(self, parameters: Any, work: Work, epochs: int) -> None:
        parameters.sparsity = work.target_sparsity
        # Its share of the sparsity that an epoch adds: the course of the switcher's target.
        parameters.epsilon = 1 / max(1, round(work.config.alternation.ramp * epochs))


def _log_odds(share: float) -> float:
    share = min(max(share, 1e-4), 1 - 1e-4)
    return math.log(share / (1 - share))


def _epochs(work: Work) -> tuple[int, int, int]:
    """Return the epochs before, in and after pruning: those of the switcher's phases."""
    phases = work.config.alternation
    epochs = work.config.optimisation.epochs
    begin, _, settle = Alternation(1, 1, phases.warmup, phases.settle, phases.ramp).plan(epochs)
    begin, settle = min(begin, epochs - 1), max(settle, min(begin, epochs - 1) + 1)
    return begin, settle - begin, epochs - settle


def _check(network: keras.Model) -> None:
    """Raise a `RunError` unless the package builds the same network again."""
    for layer, following in zip(network.layers, network.layers[1:], strict=False):
        if following.input is not layer.output:
            raise RunError(
                "PQuantML's layers need a network that is a chain of layers. Received: "
                f"'{following.name}' does not read '{layer.name}'. Leave it out of --methods."
            )
