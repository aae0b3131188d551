"""What is exported: the model of a finished run, or of a file, and examples to verify it with."""

import dataclasses
import json
import logging
import math
import re
import shlex
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import yaml

from keras_switcher.convert import strip
from keras_switcher.copying import has_own
from keras_switcher.data import DATASETS, check_labels, load
from keras_switcher.graphs import has_graph
from keras_switcher.initial import weight_not_finite
from keras_switcher.layers import switched_layers
from keras_switcher.nesting import walk
from keras_switcher.own_code import run_files
from keras_switcher.programs import train_command
from keras_switcher.runs import CONFIG_FILE, STRIPPED_FILE, SUMMARY_FILE, RunFolder

from .convert import as_functional, class_count, fixed_shape, in_precision
from .errors import ExportError
from .options import ExportOptions

logger = logging.getLogger("keras_switcher.export")

# Number of made-up inputs, where no data is at hand, and a limit to their bytes.
_MADE, _MADE_BYTES = 200, 2**25
# What an export tells of a run.
_OF_SUMMARY = ("model", "layers", "fc_sparsity", "model_sparsity")
# Types of inputs that can be exported.
_TYPES = ("float32", "uint8", "int8", "int32")


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Examples to verify and to calibrate with.

    Args:
        source: Where they come from, for people to read.
        test: Inputs by name, each (examples, ...), as the model takes them.
        labels: Class numbers, (examples,), if there are any.
        train: Inputs by name for the ranges of activations, if there are any.
        are_real: Whether they are data rather than made-up numbers.
        class_names: The names of the classes in the order of their numbers; empty if unknown.
    """

    source: str
    test: dict[str, np.ndarray]
    labels: np.ndarray | None
    train: dict[str, np.ndarray] | None
    are_real: bool = True
    class_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A model to export.

    Args:
        name: Its name.
        model: A plain, built Keras model that computes in float32.
        examples: The examples to verify it with.
        summary: The run's own summary; empty for a file.
    """

    name: str
    model: keras.Model
    examples: Examples
    summary: Mapping[str, Any]


def read_source(options: ExportOptions) -> Source:
    """Read the model and the examples.

    Args:
        options: The command's options.

    Returns:
        What to export.

    Raises:
        ConfigError: If a file of `load` is missing, or its code fails.
        ExportError: If the run is not finished, or a file is missing, damaged or does not fit.
    """
    run_files(map(str, options.load), options.verbose)
    path = options.source
    if path.is_dir():
        return _run(path, options)
    if not path.exists():
        raise ExportError(
            "Expected the folder of a run, or a .keras file. Received: "
            f"{path}, which does not exist"
        )
    if path.suffix != ".keras":
        raise ExportError(f"Expected the folder of a run, or a .keras file. Received: {path}")
    model = _plain(_model(path), path)
    return Source(path.stem, model, _examples(model, options, None), {})


def _run(path: Path, options: ExportOptions) -> Source:
    folder = RunFolder(path)
    if not folder.has_run:
        raise ExportError(
            "Expected the folder of a run of train.py, with its stripped.keras and summary.json. "
            f"Received: {path}, which holds none"
        )
    if not folder.is_finished:
        raise ExportError(
            f"The run in {path} is not finished: go on with `{train_command()} --run-dir {path} "
            "--resume`, then export it."
        )
    try:
        summary = json.loads((path / SUMMARY_FILE).read_text(encoding="utf-8"))
        config = yaml.safe_load((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ExportError(f"The run in {path} is damaged: {error}") from error
    if not isinstance(summary, dict) or not isinstance(config, dict):
        raise ExportError(f"The run in {path} is damaged: {SUMMARY_FILE} or {CONFIG_FILE}.")
    if missing := [name for name in _OF_SUMMARY if name not in summary]:
        raise ExportError(f"The run in {path} is damaged: {SUMMARY_FILE} lacks {missing[0]}.")
    model = _plain(_model(path / STRIPPED_FILE), path)
    return Source(
        str(summary.get("model", path.name)), model, _examples(model, options, config), summary
    )


def _model(path: Path) -> keras.Model:
    if not path.is_file():
        raise ExportError(f"Expected a model at {path}. Received: no such file")
    if not zipfile.is_zipfile(path):
        raise ExportError(
            f"Can't load {path} as a Keras model: it is damaged, or no file that Keras has saved."
        )
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        # The part that matters comes after the configuration of the whole model.
        if "Could not locate" in reason:
            reason = reason[reason.index("Could not locate") :]
        advice = ""
        if "Could not locate" in reason or "deserializ" in reason:
            advice = (
                " For a model with layers of your own, name the files that define them by --load."
            )
        if "safe_mode" in reason:
            advice = (
                " If you trust the file, call keras.config.enable_unsafe_deserialization() and "
                "`export.exporting.export` from Python."
            )
        raise ExportError(
            f"Can't load {path} as a Keras model: {reason[:300].rstrip('.')}.{advice}"
        ) from error


def _plain(model: keras.Model, path: Path) -> keras.Model:
    if switched_layers(model):
        model = strip(model)
    if not has_graph(model) or has_own(model, "call"):
        raise ExportError(
            "Expected a Sequential or Functional model, a graph of layers that can be read and "
            f"compacted. Received: a {type(model).__name__} in {path}. Its call makes such a "
            "graph: keras.Model(inputs, model.call(inputs)), with inputs = keras.Input(shape)"
        )
    named = [tensor.name for tensor in model.inputs] + [layer.name for _, layer in walk(model)]
    for name in named:
        if not re.fullmatch(r"[A-Za-z0-9_.>-]+", name):
            raise ExportError(
                "Expected inputs and layers whose names consist of letters from a to z, digits and "
                f"_.>-, as TFLite's converter takes no others. Received: '{name}' in {path}: build "
                "the model with another name"
            )
    for _, layer in walk(model):
        if mode := getattr(layer, "quantization_mode", None):
            raise ExportError(
                "Expected a model that is not quantised, as the export does that itself "
                f"(--quantize). Received: layer '{layer.name}' in {path}, quantised to {mode}"
            )
    for tensor in model.outputs:
        if len(tensor.shape) == 0:
            raise ExportError(
                "Expected outputs with a row for each example. Received: "
                f"'{tensor.name}' in {path}, a single number for a whole batch"
            )
    for tensor in model.inputs:
        fixed_shape(tensor)
        if tensor.dtype not in _TYPES:
            raise ExportError(
                f"Expected inputs of the types {', '.join(_TYPES)}, which a phone's runtime takes. "
                f"Received: '{tensor.name}' of {tensor.dtype} in {path}: build the model with an "
                "Input of one of them"
            )
    if (broken := weight_not_finite(model)) is not None:
        raise ExportError(
            f"Expected weights that are finite. Received: '{broken}' in {path}, which has nan or "
            "infinity"
        )
    # A file holds float32 weights, or what they are quantised to; the types that training computed
    # in have no place in it.
    return as_functional(in_precision(model, "float32"))


def _examples(
    model: keras.Model, options: ExportOptions, config: Mapping[str, Any] | None
) -> Examples:
    if options.examples is not None:
        return _from_file(model, options.examples)
    name = options.dataset or (config or {}).get("dataset")
    if name is None:
        logger.warning(
            "No data to verify with: on made-up inputs, float files are compared with the Keras "
            "model, but int8 files are only run, and no accuracy is known. Name a data set by "
            "--dataset, or a file of examples by --examples."
        )
        return made_examples(model)
    config = config or {}
    # The folder that the run was made with may be on another machine.
    folder = options.data_dir or config.get("data_dir")
    if options.data_dir is None and folder is not None and not Path(folder).is_dir():
        folder = None
    is_own = options.dataset in (None, config.get("dataset"))
    try:
        data = load(
            name,
            folder,
            config.get("limit") if is_own else None,
            config.get("validation", 1 / 12) if is_own else 1 / 12,
        )
    except (ValueError, OSError) as error:
        advice = ""
        if name not in DATASETS.names():
            advice = " Name the file that registers it by --load, or give --examples."
            if config.get("load"):
                # Someone else's run must not have its code run unasked.
                files = config["load"]
                files = [files] if isinstance(files, str) else map(str, files)
                advice += f" If you trust the files of the run: --load {shlex.join(files)}"
        raise ExportError(f"{error}{advice}") from error
    return Examples(
        data.source,
        _as_input(model, data.x_test, f"the data set {name!r}"),
        _labels(model, data.y_test),
        _as_input(model, data.x_train, f"the data set {name!r}"),
        class_names=data.class_names,
    )


def made_examples(model: keras.Model) -> Examples:
    """Make up inputs: pixels, uniform in 0 to 255, for images; otherwise standard normal numbers.

    Integers, if the model looks them up in tables, are within the smallest of these; otherwise all
    of an 8-bit type are as likely. There are 200 inputs, but fewer, at least 4, if so many would
    take more than 32 MiB.
    """
    rng = np.random.default_rng(0)
    size = sum(4 * math.prod(fixed_shape(tensor)) for tensor in model.inputs)
    examples = max(4, min(_MADE, _MADE_BYTES // max(1, size)))

    tables = [la.input_dim for _, la in walk(model) if isinstance(la, keras.layers.Embedding)]

    def numbers(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if tables and np.issubdtype(np.dtype(dtype), np.integer):
            return rng.integers(0, min(tables), shape)
        if dtype in ("uint8", "int8"):
            return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, endpoint=True)
        if len(shape) == 4:
            return rng.uniform(0, 255, shape)
        return rng.normal(size=shape)

    made = {
        tensor.name: numbers((examples, *fixed_shape(tensor)), tensor.dtype).astype(tensor.dtype)
        for tensor in model.inputs
    }
    return Examples("made-up inputs", made, None, None, are_real=False)


def _from_file(model: keras.Model, path: Path) -> Examples:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ExportError(
                f"Expected the examples in an .npz file with x_test, made by "
                f"np.savez(path, x_test=...). Received: {path}, one array of shape {archive.shape}"
            )
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ExportError(f"Can't read the examples in {path}: {error}") from error
    if "x_test" not in arrays:
        raise ExportError(
            f"Expected x_test in {path}, and if there are any y_test and x_train. "
            f"Received: {', '.join(arrays) or 'nothing'}"
        )
    test = _as_input(model, arrays["x_test"], f"x_test of {path}")
    labels = arrays.get("y_test")
    classes = class_count(model)
    if labels is not None and classes is None:
        logger.warning(
            "y_test is not used: the model has no score for each class, and no sigmoid for two."
        )
        labels = None
    if labels is not None and classes is not None:
        is_numbers = labels.ndim > 0 and labels.dtype.kind in "biuf"
        labels = _class_numbers(labels, classes) if is_numbers else labels
        if labels.shape != (len(arrays["x_test"]),) or labels.dtype.kind not in "iu":
            raise ExportError(
                f"Expected y_test in {path} to hold a class number, or a one-hot row, for each of "
                f"the {len(arrays['x_test'])} examples; leave it out for a model that is no "
                f"classifier. Received: shape {labels.shape}, dtype {labels.dtype}"
            )
        try:
            check_labels(labels, classes)
        except ValueError as error:
            raise ExportError(f"y_test in {path}: {error}") from error
    train = (
        _as_input(model, arrays["x_train"], f"x_train of {path}") if "x_train" in arrays else None
    )
    for name in ("x_test", "x_train"):
        if name in arrays and not np.isfinite(arrays[name]).all():
            raise ExportError(
                f"Expected finite numbers in {name} of {path}. Received: values that are nan or "
                "infinite"
            )
    return Examples(path.name, test, labels, train)


def _class_numbers(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return labels as class numbers, whether they are in a column, floats or one-hot rows."""
    if labels.shape[1:] == (classes,):
        is_one_hot = (np.count_nonzero(labels, axis=1) == 1) & (labels.max(axis=1) == 1)
        return labels.argmax(axis=1) if is_one_hot.all() else labels
    labels = labels.reshape(-1) if labels.size == len(labels) else labels
    is_whole = labels.dtype.kind in "fb" and np.array_equal(labels, np.round(labels))
    return labels.astype(np.int64) if is_whole else labels


def _labels(model: keras.Model, labels: np.ndarray) -> np.ndarray | None:
    """Return the labels if the model is a classifier."""
    return None if class_count(model) is None else labels


def _as_input(model: keras.Model, array: np.ndarray, where: str) -> dict[str, np.ndarray]:
    if len(model.inputs) != 1:
        raise ExportError(
            f"Expected a model of one input to verify with {where}. "
            f"Received: inputs {[tensor.name for tensor in model.inputs]}"
        )
    tensor = model.inputs[0]
    shape = fixed_shape(tensor)
    if array.ndim == len(shape) and shape[-1] == 1 and array.shape[1:] == shape[:-1]:
        array = array[..., None]  # keras.datasets has grey images without channels
    if array.ndim and len(array) == 0:
        raise ExportError(f"Expected examples in {where}. Received: none, shape {array.shape}")
    if array.shape[1:] != shape or array.dtype.kind not in "iuf":
        raise ExportError(
            f"Expected examples of shape (examples, {', '.join(map(str, shape))}) in {where}, as "
            f"the model's input '{tensor.name}' has it. Received: {array.shape}, {array.dtype}"
        )
    if tensor.dtype != "float32" and not np.array_equal(array.astype(tensor.dtype), array):
        raise ExportError(
            f"Expected examples in {where} that are {tensor.dtype}, as the model's input "
            f"'{tensor.name}' is. Received: {array.dtype} from {array.min()} to {array.max()}, "
            "which would be others as such"
        )
    return {tensor.name: array}
