"""The weights of a TFLite model, and a storage for each of them."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .csr import BLOCKS, Storage, can_store, decode, encode
from .errors import ExportError
from .flatbuffer import builtin
from .sparsity_parameters import parameters_of, sparse_tensor

Kind = Literal["fully_connected", "conv", "depthwise"]

SPARSE_FULLY_CONNECTED = 8
"""The version of FULLY_CONNECTED that reads sparse weights.

XNNPACK leaves this version to the kernel that can; of any other it would read the values as dense.
"""

_KINDS: dict[int, Kind] = {
    schema.BuiltinOperator.FULLY_CONNECTED: "fully_connected",
    schema.BuiltinOperator.CONV_2D: "conv",
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: "depthwise",
}
_DTYPES: dict[int, np.dtype] = {
    schema.TensorType.FLOAT32: np.dtype("<f4"),
    schema.TensorType.INT8: np.dtype("i1"),
}
_HYBRID = (schema.TensorType.INT8, schema.TensorType.FLOAT32)
_WEIGHT_INPUT = 1


@dataclasses.dataclass(frozen=True)
class Weight:
    """A constant weight of a layer.

    Args:
        name: Of its tensor.
        tensor: Index of its tensor in the subgraph.
        subgraph: Index of the subgraph.
        kind: What reads it.
        hybrid: Whether int8 weights meet float32 activations (dynamic-range quantisation).
        storage: How the file holds it.
        array: The dense values: (units, inputs), (filters, height, width, channels), or
            (1, height, width, channels) for depthwise.
    """

    name: str
    tensor: int
    subgraph: int
    kind: Kind
    hybrid: bool
    storage: Storage
    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense values."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the values in the file."""
        return self.array.dtype


def weights(model: schema.ModelT) -> list[Weight]:
    """Return the constant weights of the fully connected and convolutional layers.

    A weight that several operators share is there once. Weights of float16, which a DEQUANTIZE
    turns into float32, are none of them: no sparse storage works for them.

    Args:
        model: A valid model, with weights in any storage.
    """
    found: dict[tuple[int, int], Weight] = {}
    for number, graph in enumerate(model.subgraphs):
        densified = {
            operator.outputs[0]: operator.inputs[0]
            for operator in graph.operators
            if builtin(model, operator) == schema.BuiltinOperator.DENSIFY
        }
        for operator in graph.operators:
            kind = _KINDS.get(builtin(model, operator))
            if kind is None:
                continue
            read = operator.inputs[_WEIGHT_INPUT]
            index = int(densified.get(read, read))
            tensor = graph.tensors[index]
            if tensor.type not in _DTYPES or model.buffers[tensor.buffer].data is None:
                continue
            activations = graph.tensors[operator.inputs[0]].type
            types = (tensor.type, activations)
            before = found.get((number, index))
            found[number, index] = Weight(
                name=(tensor.name or b"").decode(errors="replace"),
                tensor=index,
                subgraph=number,
                kind=kind,
                hybrid=types == _HYBRID or (before is not None and before.hybrid),
                storage=_storage(tensor, is_densified=read in densified),
                array=_dense_values(model, tensor),
            )
    return list(found.values())


def dense_weights(model: schema.ModelT) -> dict[int, np.ndarray]:
    """Return the dense values of every weight by the index of its tensor, whatever its storage."""
    return {weight.tensor: weight.array for weight in weights(model)}


def store(
    model: schema.ModelT, choices: Mapping[int, Storage], *, joined_bytes: int = 0
) -> schema.ModelT:
    """Return a copy of a model with weights in other storages; the values stay what they are.

    Args:
        model: A valid model with one subgraph. It stays as it is; the copy shares its buffers.
        choices: The storage by index of the weight's tensor. Weights that are not in it stay.
        joined_bytes: Fully connected layers of dense float32 weights up to so many bytes are kept
            from XNNPACK, as sparse ones are, if there is a sparse one: the call of a delegate costs
            more than a small layer. At 0, none is.

    Returns:
        The new model. Tensor indices of the given one are right for it too: what DENSIFY needs is
        put at the end.

    Raises:
        ExportError: If a weight can't be stored so; the message says why.

    Example:

    ```python
    sparse = store(model, {weight.tensor: Storage.CSR for weight in weights(model)})
    ```
    """
    if len(model.subgraphs) != 1:
        raise ExportError(
            f"Expected a model with one subgraph. Received: {len(model.subgraphs)} subgraphs"
        )
    by_tensor = {weight.tensor: weight for weight in weights(model)}
    for index, storage in choices.items():
        _check_choice(model, by_tensor, index, storage)
    # Only what is changed is copied: the data of buffers is large and stays.
    shared = {id(buffer.data): buffer.data for buffer in model.buffers}
    model = copy.deepcopy(model, shared)
    for index, storage in choices.items():
        if storage is Storage.DENSE:
            continue
        sparse = encode(by_tensor[index].array, BLOCKS[storage])
        tensor = model.subgraphs[0].tensors[index]
        tensor.sparsity = parameters_of(sparse)
        tensor.buffer = len(model.buffers)
        model.buffers.append(schema.BufferT(data=sparse.values.view(np.uint8)))
        if storage is Storage.DENSIFY:
            _insert_densify(model, index)
        else:
            _read_sparse(model, index)
    if any(code.version == SPARSE_FULLY_CONNECTED for code in model.operatorCodes):
        _join(model, [w.tensor for w in by_tensor.values() if _is_small(w, joined_bytes)])
    return model


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


def _check_choice(
    model: schema.ModelT, by_tensor: Mapping[int, Weight], index: int, storage: Storage
) -> None:
    if index not in by_tensor:
        raise ExportError(
            f"Expected the tensor of a weight, one of {sorted(by_tensor)}. Received: {index}"
        )
    weight = by_tensor[index]
    reason = can_store(weight.array, storage, weight.hybrid)
    if weight.storage not in (Storage.DENSE, storage):
        reason = f"expected a dense weight. Received: one stored as {weight.storage}"
    elif weight.storage is storage is not Storage.DENSE:
        reason = f"it is stored as {storage} already"
    elif reason is None and storage is not Storage.DENSE:
        reason = _foreign_reader(model, weight) or _asymmetry(model, index)
    if reason is not None:
        raise ExportError(f"Can't store the weight '{weight.name}': {reason}")


def _foreign_reader(model: schema.ModelT, weight: Weight) -> str | None:
    """Return what besides such layers reads a weight: nothing else may find it sparse."""
    graph = model.subgraphs[0]
    readers = [
        f"operator {number}"
        for number, operator, place in _uses(graph, weight.tensor)
        if place != _WEIGHT_INPUT or _KINDS.get(builtin(model, operator)) != weight.kind
    ]
    readers += ["an output of the model"] if weight.tensor in graph.outputs else []
    if readers:
        return f"expected {weight.kind} layers alone to read it. Received: {', '.join(readers)}"
    return None


def _asymmetry(model: schema.ModelT, index: int) -> str | None:
    quantization = model.subgraphs[0].tensors[index].quantization
    points = None if quantization is None else quantization.zeroPoint
    if points is not None and np.any(points):
        return f"expected symmetric weights. Received: zero points {np.unique(points).tolist()}"
    return None


def _uses(graph: schema.SubGraphT, index: int) -> Iterator[tuple[int, Any, int]]:
    """Yield the number of each operator that reads a tensor, the operator, and at which input."""
    for number, operator in enumerate(graph.operators):
        for place, read in enumerate(operator.inputs if operator.inputs is not None else ()):
            if read == index:
                yield number, operator, place


def _operator_code(model: schema.ModelT, operator: int, version: int) -> int:
    """Return the index of an operator code, which is added if there is none."""
    for index, code in enumerate(model.operatorCodes):
        if (max(code.builtinCode, code.deprecatedBuiltinCode), code.version) == (operator, version):
            return index
    model.operatorCodes.append(
        # Runtimes before 2.4 read the deprecated field.
        schema.OperatorCodeT(
            builtinCode=operator, deprecatedBuiltinCode=min(operator, 127), version=version
        )
    )
    return len(model.operatorCodes) - 1


def _read_sparse(model: schema.ModelT, index: int) -> None:
    code = _operator_code(
        model, schema.BuiltinOperator.FULLY_CONNECTED, version=SPARSE_FULLY_CONNECTED
    )
    for _, operator, _ in _uses(model.subgraphs[0], index):
        operator.opcodeIndex = code


def _is_small(weight: Weight, most_bytes: int) -> bool:
    is_float = weight.dtype == np.float32
    return weight.kind == "fully_connected" and is_float and weight.array.nbytes <= most_bytes


def _join(model: schema.ModelT, small: list[int]) -> None:
    """Give the layers of these weights the version that XNNPACK leaves alone."""
    graph = model.subgraphs[0]
    code = _operator_code(
        model, schema.BuiltinOperator.FULLY_CONNECTED, version=SPARSE_FULLY_CONNECTED
    )
    unpacked = [
        operator.outputs[0]
        for operator in graph.operators
        if builtin(model, operator) == schema.BuiltinOperator.DENSIFY
        and operator.inputs[0] in small
    ]
    for index in (*small, *unpacked):
        for _, operator, place in _uses(graph, index):
            is_layer = builtin(model, operator) == schema.BuiltinOperator.FULLY_CONNECTED
            if is_layer and place == _WEIGHT_INPUT:
                operator.opcodeIndex = code


def _insert_densify(model: schema.ModelT, index: int) -> None:
    graph = model.subgraphs[0]
    sparse = graph.tensors[index]
    dense = len(graph.tensors)
    graph.tensors.append(
        schema.TensorT(
            shape=sparse.shape,
            type=sparse.type,
            name=(sparse.name or b"") + b"_dense",
            hasRank=sparse.hasRank,
        )
    )
    uses = list(_uses(graph, index))
    for _, operator, place in uses:
        inputs = np.array(operator.inputs, np.int32)
        inputs[place] = dense
        operator.inputs = inputs
    densify = schema.OperatorT(
        opcodeIndex=_operator_code(model, schema.BuiltinOperator.DENSIFY, version=1),
        inputs=[index],
        outputs=[dense],
    )
    graph.operators.insert(min(number for number, _, _ in uses), densify)
