"""Make the files of an export: compact, convert, store and describe; nothing is measured here."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from . import flatbuffer, metadata
from .compact import Compacted, compact
from .convert import Precision, as_given, convert, is_classifier, output_names
from .csr import Storage, block_density
from .errors import ExportError
from .options import ExportOptions
from .source import Source
from .sparsify import changeable, store
from .storage import Goal, choose
from .validate import validate
from .weights import weights

logger = logging.getLogger("keras_switcher.export")

# Number of training examples from which the ranges of int8 activations are read, and fewest that
# are not warned of.
_CALIBRATION, _FEW = 200, 100
# Zeros come in blocks if at least this share of the weights in blocks with a non-zero is non-zero.
_FILL = 0.75


@dataclasses.dataclass(frozen=True, eq=False)
class Artifact:
    """A file before it is written.

    Args:
        file: Its name.
        kind: One of `dense`, `sparse`, `compact`, `int8` and `float16`; or `experimental_sparsity`,
            which is measured beside them but not published.
        precision: The numbers that it computes in.
        content: Its content.
        purpose: What it is for, in a few words.
    """

    file: str
    kind: str
    precision: Precision
    content: bytes
    purpose: str


def artifacts(source: Source, options: ExportOptions) -> tuple[list[Artifact], Compacted]:
    """Make the files of an export.

    Args:
        source: The model and its examples.
        options: The command's options.

    Returns:
        The files, each validated, and the result of compacting.

    Raises:
        ExportError: If the model can't be exported with these options.
    """
    known = _count(source.examples.train)
    if options.quantize == "int8" and known < options.batch:
        advice = "Give --examples a file with x_train, or use --quantize dynamic"
        if len(source.model.inputs) > 1:
            advice = "Use --quantize dynamic, as files of examples are for models of one input"
        raise ExportError(
            "Expected training examples with --quantize int8, which takes the ranges of "
            f"activations from them, at least as many as --batch: {options.batch}. {advice}. "
            f"Received: {known or 'none'}"
        )
    if options.quantize == "int8" and known < _FEW:
        logger.warning(
            "x_train has %d examples. Ranges of activations from so few may not hold for others; "
            "give it %d or more, of all kinds.",
            *(known, _FEW),
        )
    compacted = compact(source.model)
    build = _Builder(source, options)
    made = [
        build.without_sparse_tensors("dense", source.model, "baseline: zeros kept"),
        build.sparse(),
        build.without_sparse_tensors(
            "compact", compacted.model, "no sparse tensors: GPU and NPU delegates"
        ),
    ]
    if options.quantize != "none" and (quantized := build.int8()):
        made.append(quantized)
    if options.float16:
        purpose = "no sparse tensors: GPU delegates, half the bytes"
        made.append(
            build.without_sparse_tensors("float16", compacted.model, purpose, Precision.FLOAT16)
        )
    return made, compacted


def experimental_sparsity(source: Source, options: ExportOptions) -> Artifact:
    """Return the file that the converter itself makes of the model's zeros, for comparison."""
    content = convert(source.model, batch=options.batch, experimental_sparsity=True)
    return Artifact(
        "EXPERIMENTAL_SPARSITY",
        "experimental_sparsity",
        Precision.FLOAT32,
        content,
        "the converter's own, for comparison",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Builder:
    source: Source
    options: ExportOptions

    def made(self, kind: str, precision: Precision, read: Any, purpose: str) -> Artifact:
        content = self._written(read)
        return Artifact(f"model_{kind}.tflite", kind, precision, content, purpose)

    def without_sparse_tensors(
        self, kind: str, model: keras.Model, purpose: str, precision: Precision = Precision.FLOAT32
    ) -> Artifact:
        return self.made(kind, precision, self._converted(model, precision), purpose)

    def sparse(self) -> Artifact:
        # Blocks of 16 inputs are also blocks of 4, which float32 kernels read.
        group = min(4, block_of(self.source.model))
        stored = self._stored(self._converted(self._compacted(group)))
        if has_idle_gather(stored):
            stored = self._stored(self._converted(self._compacted(group, gather=False)))
        return self.made("sparse", Precision.FLOAT32, stored, "CPU, float32")

    def int8(self) -> Artifact | None:
        precision = Precision(self.options.quantize)
        group = 16 if block_of(self.source.model) == 16 else 1
        read = self._converted(self._compacted(group), precision)
        if not has_int8(read):
            logger.warning(
                "No model_int8.tflite: the converter left all weights in float32, as it does with "
                "--quantize %s where a kernel has fewer than 1,024.",
                self.options.quantize,
            )
            return None
        return self.made("int8", precision, self._stored(read), "CPU, small download")

    def _compacted(self, group: int, *, gather: bool = True) -> keras.Model:
        return compact(self.source.model, group=group, gather=gather).model

    def _stored(self, read: Any) -> Any:
        chosen = choose(changeable(read), Goal(self.options.optimize), self.options.thresholds)
        return store(read, chosen, joined_bytes=self.options.thresholds.joined_bytes)

    def _converted(self, model: keras.Model, precision: Precision = Precision.FLOAT32) -> Any:
        representative = None
        if precision is Precision.INT8:
            representative = list(calibration(self.source, self.options.batch))
        content = convert(model, precision, batch=self.options.batch, representative=representative)
        read = flatbuffer.read(content)
        if len(read.subgraphs) != 1:
            raise ExportError(
                "Expected a model without loops: layers such as LSTM and GRU need unroll=True, and "
                f"a fixed number of steps. Received: {len(read.subgraphs)} subgraphs in the file"
            )
        return read

    def _written(self, model: Any) -> bytes:
        metadata.describe(model, facts(self.source))
        content = flatbuffer.write(model)
        if names := labels(self.source):
            content = metadata.with_labels(content, names)
        # What the converter itself wrote is trusted; what was changed since is checked.
        validate(content, trusted=flatbuffer.operators(model))
        return content


def has_int8(model: Any) -> bool:
    """Return whether a model has weights in int8.

    Args:
        model: A `ModelT`.
    """
    return any(
        tensor.type == schema.TensorType.INT8 and model.buffers[tensor.buffer].data is not None
        for graph in model.subgraphs
        for tensor in graph.tensors
    )


def has_idle_gather(model: Any) -> bool:
    """Return whether a model has gathers, and only sparse layers read them.

    Zeros cost a sparse layer nothing, so it is faster without a gather.

    Args:
        model: A `ModelT`.
    """
    graph = model.subgraphs[0]
    sparse = {
        weight.tensor
        for weight in weights(model)
        if weight.storage not in (Storage.DENSE, Storage.DENSIFY)
    }
    gathered = [
        operator.outputs[0]
        for operator in graph.operators
        if flatbuffer.operator_of(model, operator) == schema.BuiltinOperator.GATHER
    ]
    readers = [op for op in graph.operators if set(gathered) & set(op.inputs)]
    return bool(gathered) and all(sparse & set(reader.inputs) for reader in readers)


def calibration(source: Source, batch: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of training examples in the form that `convert` expects, if there are any."""
    train = source.examples.train or {}
    count = _count(train)
    # In the order of the file, the first ones may all be of one class.
    rows = np.random.default_rng(0).permutation(count)[: max(_CALIBRATION, batch)]
    for start in range(0, len(rows) - batch + 1, batch):
        chosen = rows[start : start + batch]
        yield as_given(source.model, {name: values[chosen] for name, values in train.items()})


def _count(examples: Mapping[str, np.ndarray] | None) -> int:
    return min((len(values) for values in (examples or {}).values()), default=0)


def facts(source: Source) -> dict[str, Any]:
    """Return the facts that every file holds about itself."""
    kept = ("dataset", "test_accuracy", "fc_sparsity", "granularity")
    return {
        "model": source.name,
        "inputs": {
            tensor.name: {
                "shape": list(tensor.shape[1:]),
                "dtype": tensor.dtype,
                "values": values_taken(source, tensor.name),
            }
            for tensor in source.model.inputs
        },
        "outputs": sorted(output_names(source.model)),
        **({"labels": metadata.LABELS_FILE} if labels(source) else {}),
        **{name: source.summary[name] for name in kept if name in source.summary},
    }


def values_taken(source: Source, name: str) -> str:
    """Return, as text, what an input of a model takes, as far as the examples tell."""
    taken = "as the Keras model takes them"
    if not source.examples.are_real:
        return taken
    values = source.examples.test[name]
    return f"{taken}: from {values.min():g} to {values.max():g} in {source.examples.source}"


def labels(source: Source) -> list[str]:
    """Return the names of the classes, or their numbers if no names are known.

    The list is empty if the model is not a classifier.
    """
    if not is_classifier(source.model):
        return []
    classes = source.model.outputs[0].shape[-1]
    names = list(source.examples.class_names)
    return names if len(names) == classes else [str(number) for number in range(classes)]


def block_of(model: keras.Model) -> int:
    """Return how many consecutive inputs of a unit are on or off together: 16, 4 or 1."""
    # A unit that is whole, or wholly off, is both with any block.
    kernels = [kernel[_is_partly_off(kernel)] for kernel in sparse_kernels(model)]
    kernels = [kernel for kernel in kernels if kernel.size]
    for block in (16, 4):
        stored = [_in_blocks(kernel, block) for kernel in kernels]
        values = sum(np.count_nonzero(kernel) for kernel in kernels)
        room = sum(block_density(padded, block) * padded.size for padded in stored)
        if room and values / room >= _FILL:
            return block
    return 1


def sparse_kernels(model: keras.Model) -> list[np.ndarray]:
    """Return the kernels, as (units, inputs), of dense layers whose weights are mostly zero."""
    kernels = [
        np.asarray(layer.kernel).T
        for layer in model.layers
        if isinstance(layer, keras.layers.Dense)
    ]
    return [kernel for kernel in kernels if 2 * np.count_nonzero(kernel) < kernel.size]


def _is_partly_off(kernel: np.ndarray) -> np.ndarray:
    """Return for each unit of a kernel, as (units, inputs), whether some of its weights are 0."""
    on = np.count_nonzero(kernel, axis=1)
    return (on > 0) & (on < kernel.shape[1])


def _in_blocks(kernel: np.ndarray, block: int) -> np.ndarray:
    return np.pad(kernel, ((0, 0), (0, -kernel.shape[1] % block)))
