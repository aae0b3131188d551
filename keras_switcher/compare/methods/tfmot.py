"""`prune_low_magnitude` of TensorFlow Model Optimization, on Keras 2.

The package sets TF_USE_LEGACY_KERAS=1 when it is imported. Only the process that trains a cell of
the comparison may import it, so this module imports it only where it is needed.
"""

import functools
import importlib.util
from typing import Any

import keras
import numpy as np

from keras_switcher.compare.method import Method, Trained, register
from keras_switcher.compare.plan import COURSE, TRAINING
from keras_switcher.compare.pruned import course
from keras_switcher.compare.work import Work, fit_at_once
from keras_switcher.config import Config
from keras_switcher.extras import install_command
from keras_switcher.files import RunError
from keras_switcher.graphs import calls
from keras_switcher.networks import Start, optimizer_of

# Entries of a layer's configuration that Keras 2 does not know, or that the weights make void.
_LEFT_OUT = ("dtype", "quantization_config", "lora_rank", "lora_alpha", "registered_name", "build")
_LEFT_OUT_ENDS = ("_initializer", "_regularizer", "_constraint")
# Those of them that would change the training.
_REFUSED_ENDS = ("_regularizer", "_constraint")


@register("tfmot")
class Tfmot(Method):
    """TensorFlow Model Optimization, the same sparsity for every dense layer.

    Reference:
        [Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878), which it implements.
    """

    title = "tfmot, uniform"
    # Its callback must be called at each step.
    reads = (TRAINING | COURSE) - {"steps_per_execution"}

    def sparsities(self, work: Work, names: list[str]) -> list[float]:
        """Return the sparsity of each dense layer.

        Args:
            work: The work.
            names: Names of the layers.
        """
        return [work.target_sparsity for _ in names]

    def check(self, config: Config, start: Start) -> None:
        for package in ("tensorflow_model_optimization", "tf_keras"):
            if importlib.util.find_spec(package) is None:
                raise RunError(f"The method needs {package}: {install_command('compare')}")
        if config.execution.precision != "float32":
            raise RunError(
                "Expected --precision float32: tfmot was not tried with another. "
                f"Received: {config.execution.precision}"
            )
        _has_keras_2(start.learned)

    def train(self, work: Work) -> Trained:
        import tensorflow_model_optimization as tfmot
        import tf_keras

        start = work.start()
        network = to_keras_2(start.learned)
        dense = [layer.name for layer in network.layers if isinstance(layer, tf_keras.layers.Dense)]
        sparsities = dict(zip(dense, self.sparsities(work, dense), strict=True))
        begin, end, every = course(work)

        def wrapped(layer: Any) -> Any:
            if layer.name not in sparsities:
                return layer
            return tfmot.sparsity.keras.prune_low_magnitude(
                layer,
                pruning_schedule=tfmot.sparsity.keras.PolynomialDecay(
                    0.0, sparsities[layer.name], begin, end, frequency=every
                ),
            )

        model = tf_keras.models.clone_model(network, clone_function=wrapped)
        model.compile(
            optimizer_of(work.config, work.data, library=tf_keras),
            _loss(work, start.returns_logits),
            metrics=["accuracy"],
            jit_compile=work.config.execution.jit,
        )
        stop = tf_keras.callbacks.LambdaCallback(on_batch_end=lambda batch, logs: work.stop.check())
        seconds = fit_at_once(work, model, [tfmot.sparsity.keras.UpdatePruningStep(), stop])
        validation, test = (work.accuracy(model, part) for part in ("validation", "test"))
        stripped = tfmot.sparsity.keras.strip_pruning(model)
        for layer in start.learned.layers:
            if layer.weights:
                layer.set_weights(stripped.get_layer(layer.name).get_weights())
        work.keep(start.learned)
        return Trained(
            validation_accuracy=validation,
            test_accuracy=test,
            layers=self.layers(start.learned),
            parameters=work.parameters,
            remaining_parameters=self.remaining(start.learned, work),
            seconds=seconds,
        )


@register("tfmot-layerwise")
class TfmotLayerwise(Tfmot):
    """TensorFlow Model Optimization, with the sparsity of each layer that the switcher found."""

    title = "tfmot, switcher's sparsities"
    needs = ("switcher",)

    def sparsities(self, work: Work, names: list[str]) -> list[float]:
        found = {row["name"]: row for row in work.found["switcher"]["layers"]}
        # A layer that the switcher leaves alone stays dense.
        densities = [found[n]["on"] / found[n]["connections"] if n in found else 1.0 for n in names]
        return [1 - density for density in densities]


@functools.lru_cache(maxsize=1)
def _has_keras_2(network: keras.Model) -> None:
    """Check that Keras 2 can make a network; cached, as it takes seconds and is asked repeatedly.

    Args:
        network: The network.

    Raises:
        RunError: If it can't.
    """
    to_keras_2(network)


def to_keras_2(model: keras.Model) -> Any:
    """Return a graph of Keras 3 layers as one of Keras 2 layers, with its weights.

    Args:
        model: A functional model with one input and one output.

    Raises:
        RunError: If Keras 2 lacks a layer or computes something else with it, or if a layer has a
            regulariser or a constraint.
    """
    import tf_keras

    (given,) = model.inputs
    entry = tf_keras.Input(tuple(given.shape[1:]), dtype=given.dtype)
    made: dict[int, Any] = {id(given): entry}
    layers: dict[int, Any] = {}
    for call in calls(model):
        inputs = [made[id(tensor)] for tensor in call.input_tensors]
        operation = call.operation
        if id(operation) not in layers:
            layers[id(operation)] = _layer(operation)
        (output,) = call.output_tensors
        made[id(output)] = layers[id(operation)](inputs[0] if len(inputs) == 1 else inputs)
    copy = tf_keras.Model(entry, made[id(model.outputs[0])])
    for layer in model.layers:
        if layer.weights:
            layers[id(layer)].set_weights(layer.get_weights())
    _compare(model, copy)
    return copy


def _compare(model: keras.Model, copy: Any) -> None:
    """Check that a network of Keras 2 computes the same as that of Keras 3.

    Some names have different meanings in the two, such as the activation `hard_sigmoid`.
    """
    shape = model.inputs[0].shape[1:]
    if None in shape:
        raise RunError(
            f"Expected a network for images of one size. Received: '{model.name}', whose inputs "
            f"have the shape {shape}. Leave tfmot out of --methods."
        )
    random = np.random.default_rng(0)
    # Small and large values, like features and like pixels.
    given = np.concatenate(
        [random.normal(size=(4, *shape)), random.integers(0, 256, size=(4, *shape))]
    ).astype(model.inputs[0].dtype)
    own, other = (np.asarray(network(given, training=False)) for network in (model, copy))
    # This allows for rounding in a deep network whose sums run in another order.
    if not np.allclose(other, own, rtol=1e-3, atol=1e-3 * float(np.abs(own).max())):
        raise RunError(
            "Expected a network that computes the same with the layers of Keras 2. Received: "
            f"'{model.name}', whose outputs differ by up to {np.abs(other - own).max():.2g}. "
            "Leave tfmot out of --methods."
        )


def _layer(layer: Any) -> Any:
    import tf_keras

    kind = getattr(tf_keras.layers, type(layer).__name__, None)
    if kind is None or not isinstance(layer, keras.layers.Layer):
        raise RunError(
            f"Expected a network of layers that Keras 2 has, too. Received: a "
            f"{type(layer).__name__} named '{layer.name}'"
        )
    whole = layer.get_config()
    if refused := [name for name in whole if name.endswith(_REFUSED_ENDS) and whole[name]]:
        raise RunError(
            "Expected layers without regularisers and constraints, which this does not bring to "
            f"Keras 2. Received: '{layer.name}' with {refused[0]}. Leave tfmot out of --methods."
        )
    config = {
        name: value
        for name, value in whole.items()
        if name not in _LEFT_OUT and not name.endswith(_LEFT_OUT_ENDS)
    }
    try:
        return kind.from_config(config)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"Expected a network whose layers Keras 2 can make. Received: '{layer.name}', a "
            f"{type(layer).__name__}. Leave tfmot out of --methods. The error was: "
            f"{' '.join(str(error).split())}"
        ) from error


def _loss(work: Work, from_logits: bool) -> Any:
    import tensorflow as tf
    import tf_keras

    smoothing = work.config.optimisation.label_smoothing
    if not smoothing:
        return tf_keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)

    def smoothed(labels: Any, predictions: Any) -> Any:
        one_hot = tf.one_hot(tf.cast(tf.reshape(labels, (-1,)), tf.int32), predictions.shape[-1])
        return tf_keras.losses.categorical_crossentropy(
            one_hot, predictions, from_logits=from_logits, label_smoothing=smoothing
        )

    return smoothed
