"""A .tflite file as an object model, and back."""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .errors import InvalidFile

IDENTIFIER = b"TFL3"

_ALIGNMENT = 16


def read(content: bytes) -> schema.ModelT:
    """Read a TFLite model.

    Args:
        content: The file. Arrays of the model are views of it, so they can't be written to.

    Returns:
        The object model. Buffers that lie behind the flatbuffer, as in files of more than 2 GB or
        from ai-edge-quantizer, are resolved: each has its data in `data`.

    Raises:
        InvalidFile: If it can't be read as one. `validate` tells whether a runtime can run it
            safely.
    """
    if content[4:8] != IDENTIFIER:
        raise InvalidFile(
            f"Expected a TFLite model, with {IDENTIFIER!r} at byte 4. Received: {len(content)} "
            f"bytes, with {bytes(content[4:8])!r} there"
        )
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    # The reader of flatbuffers raises a different error for each kind of damage.
    except Exception as error:
        raise InvalidFile(
            "Expected a TFLite model. Received: one whose structure is damaged "
            f"({type(error).__name__}: {error})"
        ) from error
    for index, buffer in enumerate(model.buffers or []):
        if buffer is not None and buffer.offset > 1:
            _resolve(index, buffer, content)
    return model


def _resolve(index: int, buffer: schema.BufferT, content: bytes) -> None:
    end = buffer.offset + buffer.size
    if buffer.data is not None or end > len(content):
        raise InvalidFile(
            f"Buffer {index}: expected data either in the flatbuffer or behind it, within the "
            f"{len(content)} bytes of the file. Received: bytes {buffer.offset} to {end}"
        )
    buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    buffer.offset = buffer.size = 0


def write(model: schema.ModelT) -> bytes:
    """Write a TFLite model.

    Buffers that nothing refers to are left out, equal ones are written once, and the data of each
    starts at a multiple of 16 bytes, as runtimes that map the file into memory expect.

    Args:
        model: The object model. Its buffers are reordered, and the references to them updated.

    Returns:
        The file.
    """
    _compact_buffers(model)
    data_bytes = sum(0 if buffer.data is None else len(buffer.data) for buffer in model.buffers)
    # Reserved all at once, as growing would copy everything several times.
    builder = flatbuffers.Builder(data_bytes + data_bytes // 16 + 2**16)
    buffers = model.buffers
    model.buffers = [_Aligned(buffer.data) for buffer in buffers]
    try:
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    finally:
        model.buffers = buffers
    return bytes(builder.Output())


def operators(model: schema.ModelT) -> frozenset[int]:
    """Return which operators of `schema.BuiltinOperator` a model has."""
    return frozenset(builtin(code) for code in model.operatorCodes or ())


def operator_of(model: schema.ModelT, operator: schema.OperatorT) -> int:
    """Return which operator of `schema.BuiltinOperator` this is."""
    return builtin(model.operatorCodes[operator.opcodeIndex])


def builtin(code: schema.OperatorCodeT) -> int:
    """Return the operator of `schema.BuiltinOperator` that an operator code stands for."""
    # Old files have the number, if it is below 128, in another field only.
    return max(code.builtinCode, code.deprecatedBuiltinCode)


class _Aligned(schema.BufferT):
    """A buffer whose data is aligned; the generated code ignores `force_align` of the schema."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        if self.data is None:
            return int(super().Pack(builder))
        payload = bytes(self.data)
        builder.StartVector(1, len(payload), _ALIGNMENT)
        builder.head -= len(payload)
        builder.Bytes[builder.head : builder.head + len(payload)] = payload
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


def _compact_buffers(model: schema.ModelT) -> None:
    # Buffer 0 is empty by convention: tensors without data refer to it.
    buffers = [schema.BufferT()]
    places: dict[bytes | None, int] = {None: 0}

    def place(index: int) -> int:
        data = model.buffers[index].data
        key = None if data is None else bytes(data)
        if key not in places:
            places[key] = len(buffers)
            buffers.append(schema.BufferT(data=data))
        return places[key]

    referring: list[Any] = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    for item in [*referring, *(model.metadata or [])]:
        item.buffer = place(item.buffer)
    if model.metadataBuffer is not None:
        model.metadataBuffer = np.array([place(i) for i in model.metadataBuffer], np.int32)
    model.buffers = buffers
