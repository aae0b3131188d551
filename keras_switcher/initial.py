"""Starting from a trained model: reading it, and training its dense layers on cached features."""

import dataclasses
import hashlib
import math
import zipfile
from pathlib import Path

import keras
import numpy as np

from keras_switcher.batches import evaluation_batches
from keras_switcher.copying import walk
from keras_switcher.data import ImageData
from keras_switcher.features import split
from keras_switcher.layers import switched_layers
from keras_switcher.model import SwitchedModel
from keras_switcher.runs import replacing

_FEATURES = "features.npz"
_BATCH = 128


def load_initial(path: str, data: ImageData) -> keras.Model:
    """Read the trained model that a run starts from.

    Args:
        path: A `.keras` file.
        data: What it will learn from.

    Returns:
        The model, not compiled.

    Raises:
        FileNotFoundError: If the file isn't there.
        ValueError: If it is no Keras model, has no dense layer, is switched already, or does not
            take the images of the data set or return a number for each of its classes.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected --init-from to be a .keras file. Received: {path}")
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
    if not any(isinstance(layer, keras.layers.Dense) for _, layer in walk(model)):
        raise ValueError(
            f"Expected --init-from to be a model with dense layers. Received: {path} with layers "
            f"of the types {sorted({type(layer).__name__ for _, layer in walk(model)})}"
        )
    shape, images = tuple(model.input_shape[1:]), data.input_shape
    if len(shape) != 3 or any(n not in (None, m) for n, m in zip(shape, images, strict=True)):
        raise ValueError(
            f"Expected --init-from to take the images of {data.name}, {images}. Received: {path}, "
            f"which takes {shape}"
        )
    if model.output_shape[1:] != (data.num_classes,):
        raise ValueError(
            f"Expected --init-from to return a number for each of the {data.num_classes} classes "
            f"of {data.name}. Received: {path}, which returns {model.output_shape[1:]}"
        )
    return model


def file_digest(path: str) -> str:
    """Return what tells two versions of a file apart."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def returns_logits(model: keras.Model, images: np.ndarray) -> bool:
    """Return whether a classifier returns logits, and not probabilities.

    Args:
        model: The classifier.
        images: A few examples.
    """
    outputs = np.asarray(model.predict(images, verbose=0), "float32")
    sums = outputs.sum(axis=-1)
    return bool((outputs < 0).any() or not np.allclose(sums, 1, atol=1e-2))


class FrozenTrunk:
    """A trained model whose dense part learns on features that the rest computed once.

    The trunk is all that comes before the first dense layers; it runs in inference mode. The head
    is the rest.

    Args:
        model: The trained model, a graph of layers. Its head shares its layers.

    Raises:
        ValueError: If no layer comes before the dense ones, or the model is no graph of layers.
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
        self.model = model
        self.trunk = parts.trunk
        self.head = parts.head

    @property
    def size(self) -> int:
        """Number of features of an image."""
        return math.prod(self.trunk.outputs[0].shape[1:])

    def features(self, data: ImageData, cache: Path) -> ImageData:
        """Return the data set with features in the place of the training and validation images.

        Args:
            data: The images. Those for testing stay: the whole model will be tested.
            cache: Folder that holds the features from the first call on.
        """
        path = cache / _FEATURES
        if path.is_file():
            with np.load(path, allow_pickle=False) as archive:
                stored = {name: archive[name] for name in archive.files}
        else:
            stored = {
                "x_train": self._computed(data.x_train, data.y_train),
                "x_validation": self._computed(data.x_validation, data.y_validation),
            }
            with replacing(path) as temporary:
                np.savez(temporary, **stored)
        return dataclasses.replace(data, **stored)

    def _computed(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        batches = evaluation_batches(images, labels, _BATCH).map(lambda x, _: x)
        found = self.trunk.predict(batches, verbose=0)
        return np.asarray(found[0] if isinstance(found, list) else found)

    def copy_head(self, head: SwitchedModel, whole: SwitchedModel) -> None:
        """Copy what a switched head has learned into the whole model, switched as well.

        Args:
            head: The head, switched.
            whole: The model, switched.
        """
        for layer in head.layers:
            if layer.weights:
                whole.get_layer(layer.name).set_weights(layer.get_weights())
        whole.alternation_state.set_weights(head.alternation_state.get_weights())
