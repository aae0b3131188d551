"""The weights of a TFLite model, whatever their storage."""

import dataclasses
import math
from typing import Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .csr import BLOCKS, Storage, decode
from .flatbuffer import operator_of
from .sparsity_parameters import sparse_tensor

Kind = Literal["fully_connected", "conv", "depthwise"]

KINDS: dict[int, Kind] = {
    schema.BuiltinOperator.FULLY_CONNECTED: "fully_connected",
    schema.BuiltinOperator.CONV_2D: "conv",
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: "depthwise",
}
_DTYPES: dict[int, np.dtype] = {
    schema.TensorType.FLOAT32: np.dtype("<f4"),
    schema.TensorType.INT8: np.dtype("i1"),
    schema.TensorType.FLOAT16: np.dtype("<f2"),
}
_UNPACKING = (schema.BuiltinOperator.DENSIFY, schema.BuiltinOperator.DEQUANTIZE)
_HYBRID = (schema.TensorType.INT8, schema.TensorType.FLOAT32)
WEIGHT_INPUT = 1
"""Number of the input through which a layer's operator reads its weights."""


@dataclasses.dataclass(frozen=True)
class Weight:
    """A constant weight of a layer.

    Args:
        name: Name of its tensor.
        tensor: Index of its tensor in the subgraph.
        kind: The kind of layer that reads it.
        hybrid: Whether int8 weights are used with float32 activations (dynamic-range quantisation).
        storage: How the file holds it.
        array: The dense values: (units, inputs), (filters, height, width, channels), or
            (1, height, width, channels) for depthwise.
        rows: How many times a fully connected layer uses it in one call: the batch times the other
            axes of the layer's input, such as the tokens of a text; 1 for filters.
    """

    name: str
    tensor: int
    kind: Kind
    hybrid: bool
    storage: Storage
    array: np.ndarray
    rows: int = 1

    @property
    def dtype(self) -> np.dtype:
        """Type of the values in the file."""
        return self.array.dtype


def weights(model: schema.ModelT) -> list[Weight]:
    """Return the constant weights of the fully connected and convolutional layers.

    A weight that several operators share is listed once. Among them are float16 weights, which a
    DEQUANTIZE turns into float32.

    Args:
        model: A valid model, with weights in any storage.
    """
    found: dict[tuple[int, int], Weight] = {}
    for number, graph in enumerate(model.subgraphs):
        unpacked = {
            operator.outputs[0]: operator.inputs[0]
            for operator in graph.operators
            if operator_of(model, operator) in _UNPACKING
        }
        for operator in graph.operators:
            kind = KINDS.get(operator_of(model, operator))
            if kind is None:
                continue
            read = operator.inputs[WEIGHT_INPUT]
            index = int(unpacked.get(read, read))
            tensor = graph.tensors[index]
            if tensor.type not in _DTYPES or model.buffers[tensor.buffer].data is None:
                continue
            given = graph.tensors[operator.inputs[0]]
            types = (tensor.type, given.type)
            before = found.get((number, index))
            found[number, index] = Weight(
                name=(tensor.name or b"").decode(errors="replace"),
                tensor=index,
                kind=kind,
                hybrid=types == _HYBRID or (before is not None and before.hybrid),
                storage=_storage(tensor, is_densified=read in unpacked),
                array=_dense_values(model, tensor),
                rows=max(_rows(kind, given, tensor), 1 if before is None else before.rows),
            )
    return list(found.values())


def _rows(kind: Kind, given: schema.TensorT, weight: schema.TensorT) -> int:
    if kind != "fully_connected":
        return 1
    return math.prod(int(size) for size in given.shape) // int(weight.shape[1])


def _storage(tensor: schema.TensorT, is_densified: bool) -> Storage:
    if tensor.sparsity is None:
        return Storage.DENSE
    if is_densified:
        return Storage.DENSIFY
    if len(tensor.sparsity.dimMetadata) == 2:
        return Storage.CSR
    block = tensor.sparsity.dimMetadata[-1].denseSize
    return next(storage for storage, size in BLOCKS.items() if size == block)


def _dense_values(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    values = data.view(_DTYPES[tensor.type])
    shape = tuple(int(size) for size in tensor.shape)
    if tensor.sparsity is None:
        return values.reshape(shape)
    return decode(sparse_tensor(shape, tensor.sparsity, values))
