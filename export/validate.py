"""Refuse any file that a runtime could trip over; a runtime itself checks little of what it reads.

A file is accepted only if it can be shown to be right: known operators, on tensors whose types,
shapes, data and sparsity agree. Everything else is refused, whether or not a runtime could run it.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .flatbuffer import operator_of, read
from .operation import Operation
from .operator_checks import NAMES, RULES
from .sparsity_checks import check_sparse_reader, check_sparsity
from .tensor_checks import MAX_BYTES, Tensor, check_tensor, integers, require

SCHEMA_VERSION = 3

# A runtime acts on this entry: it may reorder operators accordingly.
_ACTIVE_METADATA = b"model_control_dependencies"

_MISSING = -1

# The operators that `sparsify` gives sparse tensors to.
_REWRITTEN = (schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.DENSIFY)


def validate(content: bytes, *, trusted: Collection[int] = ()) -> None:
    """Check a TFLite file.

    Args:
        content: The file. What follows the model in it, such as a ZIP of labels, is not read.
        trusted: Operators, of `schema.BuiltinOperator`, whose options and shapes are assumed to be
            right, such as those that the converter has just written; operators that sparse tensors
            change are checked all the same. Trusted operators, too, must read and write tensors
            that exist, and no sparse ones. With any, the activations may take any memory.

    Raises:
        InvalidFile: If the file is not a model of known operators, or a runtime could read out of
            bounds or abort on it; the message says what is wrong, where, and what was expected.

    Example:

    ```python
    validate(Path("model.tflite").read_bytes())
    ```
    """
    validate_model(read(content), trusted=trusted)


def validate_model(model: schema.ModelT, *, trusted: Collection[int] = ()) -> None:
    """Check a model as `validate` does.

    Args:
        model: The object model of a file.
        trusted: As for `validate`.

    Raises:
        InvalidFile: As for `validate`.
    """
    require(model.version == SCHEMA_VERSION, "Model", f"version {SCHEMA_VERSION}", model.version)
    require(model.buffers, "Model", "buffers", "none")
    require(model.buffers[0].data is None, "Buffer 0", "no data", "some")
    require(model.subgraphs, "Model", "a subgraph", "none")
    require(
        not model.externalBuffers and not model.externalBufferGroups,
        "Model",
        "no buffers outside of the file",
        "some",
    )
    for number, graph in enumerate(model.subgraphs):
        _check_graph(model, graph, f"Subgraph {number}" if number else "Model", trusted)
    for signature in model.signatureDefs or []:
        _check_signature(model, signature)
    for entry in model.metadata or []:
        where = f"Metadata {entry.name!r}"
        count = len(model.buffers)
        require(0 <= entry.buffer < count, where, f"one of {count} buffers", entry.buffer)
        require(entry.name != _ACTIVE_METADATA, where, "facts alone", "an order of operators")


def _check_graph(
    model: schema.ModelT, graph: schema.SubGraphT, where: str, trusted: Collection[int]
) -> None:
    require(graph.tensors and graph.operators, where, "tensors and operators", "none")
    tensors = []
    for number, unchecked in enumerate(graph.tensors):
        name = (unchecked.name or b"").decode(errors="replace")
        tensor = check_tensor(f"Tensor {number} ({name})", unchecked, model.buffers)
        if tensor.sparsity is not None:
            check_sparsity(tensor)
        tensors.append(tensor)
    if not trusted:
        _check_memory(where, tensors)
    inputs = _places(f"{where}, inputs", graph.inputs, tensors)
    for place in inputs:
        is_constant = tensors[place].data is not None
        require(not is_constant, f"{where}, inputs", "tensors without data", tensors[place].where)
    ready = {*inputs, *(n for n, tensor in enumerate(tensors) if tensor.data is not None)}
    for number, operator in enumerate(graph.operators):
        _check_operator(model, f"Operator {number}", operator, tensors, ready, trusted)
    for place in set(_places(f"{where}, outputs", graph.outputs, tensors, once=False)):
        is_made = place in ready and tensors[place].data is None
        require(is_made, f"{where}, outputs", "what operators make", tensors[place].where)


def _check_memory(where: str, tensors: list[Tensor]) -> None:
    total = sum(tensor.nbytes for tensor in tensors if tensor.data is None)
    require(total <= MAX_BYTES, where, f"activations of at most {MAX_BYTES} bytes", total)


def _places(where: str, numbers: Any, tensors: list[Tensor], once: bool = True) -> list[int]:
    """Return the inputs or outputs of a graph, after checking that they are tensors of it."""
    places = integers(numbers)
    fits = all(0 <= place < len(tensors) for place in places)
    require(places and fits, where, f"some of {len(tensors)} tensors", places)
    require(not once or len(set(places)) == len(places), where, "each tensor once", places)
    return places


def _check_operator(
    model: schema.ModelT,
    where: str,
    operator: schema.OperatorT,
    tensors: list[Tensor],
    ready: set[int],
    trusted: Collection[int],
) -> None:
    """Check an operator, and add what it writes to the tensors that are ready to be read."""
    count = len(model.operatorCodes or [])
    index = operator.opcodeIndex
    require(0 <= index < count, where, f"one of {count} operator codes", index)
    number = operator_of(model, operator)
    name = NAMES.get(number, str(number))
    where = f"{where} ({name})"
    known_operators = f"one of the operators {', '.join(RULES)}"
    require(name in RULES or number in trusted, where, known_operators, name)
    # What the converter wrote may, for example, have more axes than the rules know to be right.
    is_checked = number not in trusted or number in _REWRITTEN
    rule, version = RULES.get(name) if is_checked else None, model.operatorCodes[index].version
    require(version >= 1, where, "a version of 1 or more", version)
    places, outputs = integers(operator.inputs), integers(operator.outputs)
    if rule is not None:
        low, high = rule.inputs
        expected = f"{low} inputs" if low == high else f"{low} to {high} inputs"
        require(low <= len(places) <= high, where, expected, len(places))
        require(len(outputs) == 1, where, "one output", len(outputs))
    for place in places:
        known = place == _MISSING or place in ready
        require(known, where, "inputs that are constants or were made before", f"tensor {place}")
    for output in outputs:
        is_new = 0 <= output < len(tensors) and output not in ready
        require(is_new, where, "an output that nothing else makes", f"tensor {output}")
    inputs = [None if place == _MISSING else tensors[place] for place in places]
    for place, tensor in enumerate(inputs):
        if tensor is not None and tensor.sparsity is not None:
            check_sparse_reader(where, number, version, place, tensor)
    if rule is not None:
        _check_options(where, operator, rule.options, rule.needs_options)
        made = [tensors[output] for output in outputs]
        rule.check(Operation(where, version, inputs, made, operator.builtinOptions))
    ready.update(outputs)


def _check_options(
    where: str, operator: schema.OperatorT, name: str | None, is_needed: bool
) -> None:
    kind = "none" if operator.builtinOptions is None else type(operator.builtinOptions).__name__
    allowed = [] if name is None else [f"{name}T"]
    if name is None or not is_needed:
        allowed.append("none")
    require(kind in allowed, where, f"options of {' or '.join(allowed)}", kind)
    has_others = (
        operator.builtinOptions2 is not None
        or operator.customOptions is not None
        or operator.largeCustomOptionsOffset
        or np.any(integers(operator.intermediates))
        or np.any(integers(operator.mutatingVariableInputs))
    )
    require(not has_others, where, "builtin options alone", "others too")


def _check_signature(model: schema.ModelT, signature: schema.SignatureDefT) -> None:
    where = f"Signature {signature.signatureKey!r}"
    require(signature.signatureKey, where, "a name", "none")
    index, count = signature.subgraphIndex, len(model.subgraphs)
    require(0 <= index < count, where, f"one of {count} subgraphs", index)
    graph = model.subgraphs[index]
    for maps, places in ((signature.inputs, graph.inputs), (signature.outputs, graph.outputs)):
        known = set(integers(places))
        for entry in maps or []:
            require(entry.name, where, "names of inputs and outputs", "none")
            require(
                entry.tensorIndex in known,
                f"{where}, {entry.name!r}",
                f"one of the tensors {sorted(known)}",
                entry.tensorIndex,
            )
