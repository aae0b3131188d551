"""Starting from a trained model: loading it, and training its dense layers on cached features."""

import contextlib
import dataclasses
import hashlib
import logging
import math
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_switcher.batches import evaluation_batches
from keras_switcher.checkpoints import digest_of, storable
from keras_switcher.data import ImageData
from keras_switcher.features import split
from keras_switcher.files import replacing
from keras_switcher.layers import switched_layers
from keras_switcher.model import SwitchedModel
from keras_switcher.nesting import walk

logger = logging.getLogger(__name__)

_FEATURES = "features.npz"
_PARTS = ("x_train", "x_validation", "x_test")
_BATCH = 128


def load_initial(path: str, data: ImageData) -> keras.Model:
    """Load the trained model that a run starts from.

    Args:
        path: A `.keras` file.
        data: The data that it will learn from.

    Returns:
        The model, not compiled.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a Keras model, has weights that are not finite or names that
            TensorFlow refuses, has no dense layer, is switched already, does not take just the
            images of the data set, does not return just one number for each of its classes, or
            computes in float16 where several devices share a batch.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"Expected --init-from to be a .keras file that exists. Received: {path}. If it was "
            "moved, give it with its new path"
        )
    try:
        model = keras.models.load_model(path, compile=False)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"Can't load --init-from {path} as a Keras model: {reason[:300]}"
        ) from error
    if switched_layers(model):
        raise ValueError(
            "Expected --init-from to be a model of dense layers, such as the dense.keras of a run. "
            f"Received: {path}, whose layers are switched already"
        )
    if (broken := weight_not_finite(model)) is not None:
        raise ValueError(
            f"Expected --init-from to have weights that are finite. Received: {path}, whose "
            f"'{broken}' has nan or infinity"
        )
    if (refused := _refused_name(model)) is not None:
        raise ValueError(
            "Expected --init-from to have names that TensorFlow takes, such as 'fc_1'. Received: "
            f"{path} with {refused!r}"
        )
    if not any(isinstance(layer, keras.layers.Dense) for _, layer in walk(model)):
        raise ValueError(
            f"Expected --init-from to be a model with dense layers. Received: {path} with layers "
            f"of the types {sorted({type(layer).__name__ for _, layer in walk(model)})}"
        )
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or len(inputs) != 1 or not outputs or len(outputs) != 1:
        raise ValueError(
            "Expected --init-from to be a Sequential or Functional model with one input and one "
            f"output. Received: {path}, a {type(model).__name__} with {len(inputs or ())} inputs "
            f"and {len(outputs or ())} outputs"
        )
    shape, images = tuple(inputs[0].shape[1:]), data.input_shape
    if len(shape) != 3 or any(n not in (None, m) for n, m in zip(shape, images, strict=True)):
        raise ValueError(
            f"Expected --init-from to take the images of {data.name}, {images}. Received: {path}, "
            f"which takes {shape}"
        )
    if tuple(outputs[0].shape[1:]) != (data.num_classes,):
        raise ValueError(
            f"Expected --init-from to return a number for each of the {data.num_classes} classes "
            f"of {data.name}. Received: {path}, which returns {tuple(outputs[0].shape[1:])}"
        )
    if any(layer.compute_dtype == "float16" for _, layer in walk(model)):
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError(
                "Expected --strategy none with a model that computes in float16: Keras's loss "
                f"scaling misses what overflows on one device alone. Received: {path}"
            )
        # A file of a graph of layers does not hold the model's own policy, by which Keras scales
        # the loss.
        model.dtype_policy = "mixed_float16"
    return model


def _refused_name(model: keras.Model) -> str | None:
    """Return the name of a model, or of a layer in it, that can't be called in TensorFlow."""
    called = [x for _, x in walk(model) if not isinstance(x, keras.layers.InputLayer)]
    for within, layers in (((), [model]), (("model",), called)):
        for layer in layers:
            try:
                with tf.Graph().as_default(), contextlib.ExitStack() as scopes:
                    for name in (*within, layer.name):
                        scopes.enter_context(tf.name_scope(name))
            except ValueError:
                return str(layer.name)
    return None


def weight_not_finite(model: keras.Model) -> str | None:
    """Return the path of the first weight of a model that has NaN or infinity, if one has."""
    for variable in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
            return str(variable.path)
    return None


def file_digest(path: str) -> str:
    """Return a string that tells two versions of a file apart."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def returns_logits(model: keras.Model, images: np.ndarray) -> bool:
    """Return whether a classifier returns logits rather than probabilities.

    Args:
        model: The classifier.
        images: A few examples.

    Raises:
        ValueError: If it returns independent probabilities, such as those of a sigmoid.
    """
    outputs = _outputs(model, images)
    if (outputs < 0).any() or (outputs > 1 + 1e-2).any():
        return True
    if np.allclose(outputs.sum(axis=-1), 1, atol=1e-2):
        return False
    raise ValueError(
        "Expected --init-from to return logits, or probabilities that add up to 1, of which one "
        "class of each image is the right one. Received: numbers from "
        f"{outputs.min():.3g} to {outputs.max():.3g}, which add up to {outputs[0].sum():.3g} for "
        "the first image"
    )


def validation_accuracy(model: keras.Model, data: ImageData) -> float:
    """Return the share of the validation examples that a classifier gets right.

    Args:
        model: The classifier.
        data: The data set.
    """
    images, labels = data.x_validation, data.y_validation
    right = sum(
        np.sum(_outputs(model, images[i : i + _BATCH]).argmax(axis=-1) == labels[i : i + _BATCH])
        for i in range(0, len(images), _BATCH)
    )
    return float(right / len(images))


def _outputs(model: keras.Model, images: np.ndarray) -> np.ndarray:
    # Called directly, as `predict` of several workers would be one computation for all.
    return np.asarray(model(images, training=False), "float32")


class FrozenTrunk:
    """A trained model whose dense part learns from features that the rest computes once.

    The trunk is everything before the first dense layers; it runs in inference mode. The head is
    the rest.

    Args:
        model: The trained model, a graph of layers. The head shares its layers.

    Raises:
        ValueError: If no layer comes before the dense ones, the dense part has several inputs, or
            the model is not a graph of layers.
    """

    def __init__(self, model: keras.Model):
        parts = split(
            model,
            lambda layer: any(
                isinstance(inner, keras.layers.Dense)
                for inner in (layer, *(child for _, child in walk(layer)))
            ),
        )
        if parts is None:
            raise ValueError(
                "Expected --freeze-trunk with a Sequential or Functional model that has layers "
                f"before its dense ones. Received: '{model.name}', a {type(model).__name__} with "
                f"the layers {[layer.name for layer in model.layers][:8]}"
            )
        if len(parts.head.inputs) != 1:
            raise ValueError(
                "Expected --freeze-trunk with a model whose dense part has one input. Received: "
                f"'{model.name}', whose dense part has {len(parts.head.inputs)}"
            )
        self.trunk = parts.trunk
        self.head = parts.head
        self.head.dtype_policy = model.dtype_policy

    @property
    def size(self) -> int:
        """Number of features of an image."""
        return math.prod(self.trunk.outputs[0].shape[1:])

    def features(self, data: ImageData, cache: Path, with_test: bool = False) -> ImageData:
        """Return the data set with features in place of the images.

        Args:
            data: The images.
            cache: Folder in which the features are kept from the first call on.
            with_test: Whether the test images become features, too. Otherwise they stay images, on
                which the whole model can be tested.
        """
        path = cache / _FEATURES
        parts = _PARTS if with_test else _PARTS[:-1]
        origin = self._origin(data, parts)
        if path.is_file():
            try:
                with np.load(path, allow_pickle=False) as archive:
                    if archive.get("origin") == origin:
                        return dataclasses.replace(data, **{name: archive[name] for name in parts})
            except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
                logger.warning("Can't read %s (%s): its features are computed anew.", path, error)
        stored: dict[str, Any] = {
            name: self._computed(getattr(data, name), getattr(data, name.replace("x_", "y_")))
            for name in parts
        }
        with replacing(path) as temporary:
            np.savez(temporary, origin=origin, **stored)
        return dataclasses.replace(data, **stored)

    def _origin(self, data: ImageData, parts: tuple[str, ...]) -> str:
        """Return a string that tells the features of other weights or images apart."""
        return digest_of([*self.trunk.get_weights(), *(getattr(data, name) for name in parts)])

    def _computed(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        batches = evaluation_batches(images, labels, _BATCH).map(lambda x, _: x)
        features = np.asarray(self.trunk.predict(batches, verbose=0))
        return storable(features)

    def copy_head(self, head: SwitchedModel, whole: SwitchedModel) -> None:
        """Copy what a switched head has learned into the whole model, switched as well.

        Args:
            head: The switched head.
            whole: The switched whole model.
        """
        for layer in head.layers:
            if layer.weights:
                whole.get_layer(layer.name).set_weights(layer.get_weights())
        whole.alternation_state.set_weights(head.alternation_state.get_weights())
