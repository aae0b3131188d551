"""Change how the weights of a TFLite model are stored."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .csr import BLOCKS, Storage, can_store, encode
from .errors import ExportError
from .flatbuffer import builtin, operator_of
from .sparsity_parameters import parameters_of
from .weights import KINDS, WEIGHT_INPUT, Weight, weights

SPARSE_FULLY_CONNECTED = 8
"""The version of FULLY_CONNECTED that reads sparse weights.

XNNPACK leaves this version to a kernel that can read them; in any other version, it would read the
values as dense.
"""


def store(
    model: schema.ModelT, choices: Mapping[int, Storage], *, joined_bytes: int = 0
) -> schema.ModelT:
    """Return a copy of a model with weights stored in other ways; their values do not change.

    Args:
        model: A valid model with one subgraph. It is not changed; the copy shares its buffers.
        choices: The storage, by index of the weight's tensor. Other weights stay as they are.
        joined_bytes: If there is a sparse layer, fully connected layers with dense float32 weights
            of at most this many bytes, used once in a call, are kept from XNNPACK like the sparse
            ones, as calling a delegate costs more than a small layer. At 0, none is.

    Returns:
        The new model. Tensor indices of the given one are valid for it too: the tensors that
        DENSIFY needs are added at the end.

    Raises:
        ExportError: If a weight can't be stored in that way; the message says why.
    """
    if len(model.subgraphs) != 1:
        raise ExportError(
            f"Expected a model with one subgraph. Received: {len(model.subgraphs)} subgraphs"
        )
    by_tensor = {weight.tensor: weight for weight in weights(model)}
    for index, storage in choices.items():
        _check_choice(model, by_tensor, index, storage)
    # Copy only what changes: the data of the buffers is large and stays the same.
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
    if any(kind not in (Storage.DENSE, Storage.DENSIFY) for kind in choices.values()):
        _join(model, [w.tensor for w in by_tensor.values() if _is_small(w, joined_bytes)])
    return model


def changeable(model: schema.ModelT) -> list[Weight]:
    """Return the weights of a model that `store` can store in another way.

    Args:
        model: A valid model with one subgraph.
    """
    return [
        weight
        for weight in weights(model)
        if _foreign_reader(model, weight) is None and _asymmetry(model, weight.tensor) is None
    ]


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
    """Return why a weight can't be sparse: something besides layers of its kind reads it."""
    graph = model.subgraphs[0]
    readers = [
        f"operator {number}"
        for number, operator, place in _uses(graph, weight.tensor)
        if place != WEIGHT_INPUT or KINDS.get(operator_of(model, operator)) != weight.kind
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
    """Yield, for each operator that reads a tensor, its number, the operator and which input."""
    for number, operator in enumerate(graph.operators):
        for place, read in enumerate(operator.inputs if operator.inputs is not None else ()):
            if read == index:
                yield number, operator, place


def _operator_code(model: schema.ModelT, operator: int, version: int) -> int:
    """Return the index of an operator code, adding it if it is missing."""
    for index, code in enumerate(model.operatorCodes):
        if (builtin(code), code.version) == (operator, version):
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
    is_float = weight.dtype == np.float32 and weight.rows == 1
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
        if operator_of(model, operator) == schema.BuiltinOperator.DENSIFY
        and operator.inputs[0] in small
    ]
    for index in (*small, *unpacked):
        for _, operator, place in _uses(graph, index):
            is_layer = operator_of(model, operator) == schema.BuiltinOperator.FULLY_CONNECTED
            if is_layer and place == WEIGHT_INPUT:
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
