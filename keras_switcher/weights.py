"""Weight files saved from a model with plain `Dense` layers."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras

from keras_switcher.functional import functional_base
from keras_switcher.layers import switched_layers
from keras_switcher.nesting import walk


def is_of_dense_layers(filepath: Any) -> bool:
    """Return whether a file of weights was saved from a model without switches.

    Args:
        filepath: A `.weights.h5` or `.keras` file, or the `.weights.json` of several.
    """
    name = str(filepath)
    if name.endswith(".weights.json"):
        path = Path(filepath)
        found = json.loads(path.read_text(encoding="utf-8")).get("weight_map", {}).values()
        # A name, or a list of names.
        names = set(keras.tree.flatten(list(found)))
        return bool(names) and all(is_of_dense_layers(path.with_name(each)) for each in names)
    if name.endswith(".keras"):
        with zipfile.ZipFile(filepath) as archive:
            if "model.weights.h5" not in archive.namelist():
                return False
            file: Any = io.BytesIO(archive.read("model.weights.h5"))
    elif name.endswith(".weights.h5"):
        file = filepath
    else:
        return False
    with h5py.File(file) as weights:
        return weights.visit(lambda n: True if n.endswith("/switches") else None) is None


def load_dense_weights(model: keras.Model, filepath: Any, **kwargs: Any) -> None:
    """Load the weights of a model with `Dense` layers into the same model with switched layers.

    Args:
        model: A built `SwitchedModel`; its switches and switchers stay as they are.
        filepath: A `.weights.h5` or `.keras` file, or the `.weights.json` of several.
        **kwargs: Keyword arguments of `keras.Model.load_weights`.

    Raises:
        ValueError: If the file is of another model, or if this model has no counterpart with
            `Dense` layers.
    """
    # Imported late: `convert` imports the model, which imports this module.
    from keras_switcher.convert import strip
    from keras_switcher.copying import SwitchedNetwork

    if not isinstance(model, (functional_base(), SwitchedNetwork)):
        raise ValueError(
            f"Can't load weights of Dense layers into '{model.name}', a {type(model).__name__}: it "
            "makes its layers itself. Write the network as a keras.Model with Dense layers, load "
            f"the weights there, and call keras_switcher.switch(model). Received: {filepath}"
        )
    # Keras finds the weights of a layer by the name of its class. The stripped model has the
    # classes of the file's model, and its weights are in the order of this one's.
    plain = strip(model)
    switching = [v for la in switched_layers(model) for v in (la.switches, *la.switcher.weights)]
    # A switched model may also be a layer of another one.
    for part in (model, *(layer for _, layer in walk(model))):
        if (state := getattr(part, "alternation_state", None)) is not None:
            switching += state.weights
    left_out = {id(v) for v in switching}
    ours = [v for v in model.weights if id(v) not in left_out]
    pairs = list(zip(plain.weights, ours, strict=True))
    for source, target in pairs:
        source.assign(target)
    plain.load_weights(filepath, **kwargs)
    for source, target in pairs:
        target.assign(source)
