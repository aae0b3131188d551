"""What the methods of PQuantML share: its dense layer for Keras, and its callback.

The package is in an extra of its own, as it brings in a quantiser under the LGPL and a database.
"""

import importlib.util
from typing import Any, ClassVar

import keras

from keras_switcher.compare.method import Method, Trained
from keras_switcher.compare.plan import COURSE, TRAINING
from keras_switcher.compare.work import Work, fit_at_once
from keras_switcher.config import Config
from keras_switcher.extras import install_command
from keras_switcher.files import RunError
from keras_switcher.nesting import walk
from keras_switcher.networks import Start, alternation_of, compiled_dense
from keras_switcher.state import copy_weights


class PquantMethod(Method):
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
        before, pruning, after = phases(work)
        config = getattr(pquant, f"{self.name}_config")()
        config.quantization_parameters.enable_quantization = False
        config.training_parameters.pretraining_epochs = before
        config.training_parameters.epochs = pruning
        config.training_parameters.fine_tuning_epochs = after
        self.configure(config.pruning_parameters, work, pruning)
        model, pruned = with_layers_of_pquant(start.learned, config)
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


def phases(work: Work) -> tuple[int, int, int]:
    """Return the epochs before, in and after pruning: those of the switcher's phases."""
    epochs = work.config.optimisation.epochs
    begin, _, settle = alternation_of(work.config).plan(epochs)
    begin = min(begin, epochs - 1)
    settle = max(settle, begin + 1)
    return begin, settle - begin, epochs - settle


def with_layers_of_pquant(network: keras.Model, config: Any) -> tuple[keras.Model, list[Any]]:
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
            kernel_of(new).assign(old.kernel)
            if old.use_bias:
                new._bias.assign(old.bias)
        else:
            copy_weights(old, new)
    return copy, [layer for layer in copy.layers if isinstance(layer, PQDense)]


def _weights(layer: Any) -> list[Any]:
    """Return the weights of a layer of the copy, after the final compression, as Keras has them."""
    if not hasattr(layer, "pruning_layer"):
        return list(layer.weights)
    return [kernel_of(layer), *([layer._bias] if layer.use_bias else [])]


def kernel_of(layer: Any) -> Any:
    """Return the trained kernel of a layer of the package: its `kernel` is the pruned one."""
    return layer._kernel
