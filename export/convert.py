"""Convert a Keras model to a TFLite model of dense tensors, as bytes."""

import enum
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_switcher.copying import converted_functional, graph
from keras_switcher.graphs import producer
from keras_switcher.nesting import walk
from keras_switcher.recreating import without_builds

from .errors import ExportError

# The only signature of a file; its inputs and outputs have the names of the Keras model's.
SIGNATURE = "serving_default"


class Precision(enum.StrEnum):
    """The numbers that a file computes in; its inputs and outputs keep the Keras model's types."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"  # float16 weights; computes in float32 where the runtime unpacks them
    DYNAMIC = "dynamic"  # int8 weights; activations are quantised as they are computed
    INT8 = "int8"  # int8 weights and activations; examples give the ranges of the latter


def convert(
    model: keras.Model,
    precision: Precision = Precision.FLOAT32,
    *,
    batch: int = 1,
    representative: Sequence[Mapping[str, np.ndarray]] | None = None,
    experimental_sparsity: bool = False,
) -> bytes:
    """Convert a model to TFLite, with a fixed batch and a signature of named tensors.

    Args:
        model: A built Keras model whose inputs have fixed shapes, apart from the batch.
        precision: The numbers that the file computes in.
        batch: Number of examples in a call.
        representative: For `INT8`: examples as the model will see them, each a batch of arrays
            (batch, ...) by input name, in the types of the inputs.
        experimental_sparsity: Whether the converter writes sparse tensors, by
            `tf.lite.Optimize.EXPERIMENTAL_SPARSITY`; for comparisons only, since what it writes is
            not always right.

    Returns:
        The content of a `.tflite` file.

    Raises:
        ExportError: If an input has no fixed shape, `INT8` has no examples, or the model has
            operations that TFLite does not have.
    """
    model = as_functional(model)
    names = [tensor.name for tensor in model.inputs]
    specs = [
        tf.TensorSpec((batch, *fixed_shape(tensor)), tensor.dtype, name)
        for name, tensor in zip(names, model.inputs, strict=True)
    ]

    def serve(*inputs: Any) -> dict[str, Any]:
        given = keras.tree.pack_sequence_as(model.input, inputs)
        outputs = keras.tree.flatten(model(given, training=False))
        return dict(zip(output_names(model), outputs, strict=True))

    with tempfile.TemporaryDirectory() as folder, _quiet() as log:
        try:
            archive = keras.export.ExportArchive()
            archive.track(model)
            archive.add_endpoint(SIGNATURE, serve, input_signature=specs)
            archive.write_out(folder, verbose=False)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
            _set_precision(converter, precision, representative)
            if experimental_sparsity:
                converter.optimizations = [
                    *converter.optimizations,
                    tf.lite.Optimize.EXPERIMENTAL_SPARSITY,
                ]
            content: bytes = converter.convert()
        except (ExportError, OSError):
            raise
        except Exception as error:
            if any(said in str(error) for said in ("No space left", "File too large")):
                raise ExportError(
                    f"There is no room for the converter's files in {tempfile.gettempdir()}. Free "
                    "some, or set TMPDIR to another folder."
                ) from error
            # Each of the converter's many passes raises its own errors, with pages of text.
            raise ExportError(
                f"TFLite's converter can't take the model '{model.name}': {reason(error, log)} "
                "Replace the layers that make these operations. Received: layers "
                f"{sorted({type(layer).__name__ for layer in model.layers})}"
            ) from error
    return content


def fixed_shape(tensor: keras.KerasTensor) -> tuple[int, ...]:
    """Return the shape of a model's input without the batch.

    Raises:
        ExportError: If a size in it is not fixed.
    """
    shape = tuple(tensor.shape[1:])
    if None in shape:
        raise ExportError(
            f"Expected fixed sizes for the input '{tensor.name}', since a file on a phone is made "
            "for one size of image: build the model with the size that it will get. "
            f"Received: shape {tensor.shape}"
        )
    return shape


def output_names(model: keras.Model) -> list[str]:
    """Return a name for each output: that of the layer it comes from, numbered if it repeats."""
    names = [str(name) for name in model.output_names]
    taken = {name for name in names if names.count(name) == 1}
    found = []
    for number, name in enumerate(names):
        own = name
        if names.count(name) > 1:
            # Another layer may be called `lstm_1`.
            own = next(n for i in itertools.count(number) if (n := f"{name}_{i}") not in taken)
            taken.add(own)
        found.append(own)
    return found


def as_functional(model: keras.Model) -> keras.Model:
    """Return a Sequential model as a graph with `input` and `output`; any other as it is."""
    if isinstance(model, keras.Sequential):
        return graph(model)
    return model


def as_given(model: keras.Model, examples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return examples by input name in the types that the model takes."""
    return {
        tensor.name: examples[tensor.name].astype(tensor.dtype, copy=False)
        for tensor in model.inputs
    }


def is_classifier(model: keras.Model) -> bool:
    """Return whether a model's output is a score for each class."""
    shape = model.outputs[0].shape
    return len(model.outputs) == 1 and len(shape) == 2 and shape[1] > 1


def class_count(model: keras.Model) -> int | None:
    """Return how many classes a model tells apart; `None` if it is no classifier.

    It has a score for each class, or for two classes the probability of the second, by a sigmoid.
    """
    if is_classifier(model):
        return int(model.outputs[0].shape[1])
    is_one = len(model.outputs) == 1 and tuple(model.outputs[0].shape[1:]) == (1,)
    return 2 if is_one and score_kind(model) == "sigmoid" else None


# What leaves scores as they are.
_AS_THEY_ARE = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Reshape,
)


def score_kind(model: keras.Model) -> str:
    """Return what the first output of a model is: of a "softmax", of a "sigmoid", or "logits"."""
    tensor = model.outputs[0]
    while True:
        operation, call = producer(tensor)
        if isinstance(operation, keras.Model):
            inner = getattr(operation, "outputs", [])
            if len(inner) != 1:
                return "logits"
            tensor = inner[0]
            continue
        # A layer of this name, an operation of it, or the activation of a layer.
        activation = getattr(operation, "activation", None)
        name = getattr(activation, "__name__", type(operation).__name__).lower()
        if name in ("softmax", "sigmoid"):
            return name
        is_linear = isinstance(operation, keras.layers.Activation) and name == "linear"
        if not is_linear and not isinstance(operation, _AS_THEY_ARE):
            return "logits"
        tensor = call.input_tensors[0]


def in_precision(model: keras.Model, dtype: str) -> keras.Model:
    """Return a graph of layers that computes in a type; the model itself if it does already."""
    policies = {layer.compute_dtype for _, layer in walk(model)}
    if policies <= {dtype}:
        return model

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if isinstance(layer, keras.layers.Lambda):
            return None
        # What is built before it has its policy would compute in the old type.
        config = {**without_builds(layer.get_config()), "dtype": dtype}
        try:
            copy: keras.layers.Layer = type(layer).from_config(config)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ExportError(
                f"Can't make '{layer.name}', a {type(layer).__name__}, compute in {dtype}: it does "
                "not come back from its configuration with another dtype. Let its __init__ pass "
                f"**kwargs on to super().__init__(). The error was: {error}"
            ) from error
        for _, inner in walk(copy):
            inner.dtype_policy = dtype
        return copy

    return converted_functional(model, clone)


def _set_precision(
    converter: Any, precision: Precision, representative: Sequence[Mapping[str, np.ndarray]] | None
) -> None:
    if precision is Precision.FLOAT32:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision is Precision.FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    if precision is Precision.INT8:
        if not representative:
            raise ExportError(
                "Expected representative examples for int8 activations: their ranges are read "
                "from them. Received: none"
            )
        converter.representative_dataset = lambda: iter(
            [(SIGNATURE, dict(example)) for example in representative]
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


# In the lines of the converter's messages that say what is wrong.
_SIGNS = ("Ops:", "error:", "not supported")
# What the reason comes after, in messages of Keras and TensorFlow.
_BEFORE = (
    "Exception encountered when calling",
    "Graph execution error",
    "Detected at node",
    'File "',
    "<stack traces",
)


def reason(error: Exception, log: Path | None = None) -> str:
    """Return the line that tells the reason of an error of Keras, TensorFlow or the converter.

    Args:
        error: The error.
        log: The file with the converter's output, if it was the converter.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not any(sign in line for sign in _BEFORE)] or lines
    lines += log.read_text(errors="replace").splitlines() if log and log.exists() else []
    telling = [line for line in lines if any(sign in line for sign in _SIGNS)]
    if not lines:
        return f"{type(error).__name__}."
    line = re.sub(r"\x1b\[[0-9;]*m", "", (telling or lines)[0])
    # Where in the graph it happened may take pages, before what happened.
    line = re.sub(r"^.*error: |loc\(.*\): ", "", line)
    return line[:300].rstrip(".") + "."


@contextmanager
def _quiet() -> Iterator[Path]:
    """Send the converter's output, on both streams and also from C++, to a file; yield its path."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        sys.stdout.flush()
        sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        with open(log, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            yield log
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
