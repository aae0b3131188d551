"""What a file says about itself: classes, preprocessing and the runtime that it needs."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .flatbuffer import builtin

ENTRY = "keras_switcher"
LABELS_FILE = "labels.txt"
# The converter writes it; tools read it to tell whether a runtime is new enough.
MINIMUM_RUNTIME = "min_runtime_version"

# TensorFlow Lite when it became LiteRT, whose versions start again at 1.0.
_RENAMED = (2, 17, 0)
# By operator and version, the first TensorFlow Lite that has it.
_FIRST_RUNTIME = {
    (schema.BuiltinOperator.FULLY_CONNECTED, 8): (2, 3, 0),
    (schema.BuiltinOperator.DENSIFY, 1): (2, 2, 0),
}


def describe(model: Any, facts: Mapping[str, Any]) -> None:
    """Write facts into a model, as JSON in a metadata entry, and the runtime that it needs.

    Args:
        model: A `ModelT`; it is changed.
        facts: Values that can be written as JSON. `runtime` is added.
    """
    needed = runtime_needed(model)
    text = json.dumps({**facts, "runtime": in_words(needed)})
    _set_entry(model, ENTRY, text.encode())
    # A fixed 16 bytes, as the converter writes it.
    _set_entry(model, MINIMUM_RUNTIME, needed.encode().ljust(16, b"\0"))


def runtime_needed(model: Any) -> str:
    """Return the oldest runtime that has every operator of a model, such as "2.3.0"."""
    versions = [_version(_entry(model, MINIMUM_RUNTIME) or b"")]
    for code in model.operatorCodes:
        versions.append(_FIRST_RUNTIME.get((builtin(code), code.version), (0, 0, 0)))
    return ".".join(map(str, max(versions)))


def in_words(runtime: str) -> str:
    """Return which runtimes are as new as a version of TensorFlow Lite, such as "2.3.0"."""
    is_older = tuple(map(int, runtime.split("."))) <= _RENAMED
    return f"TensorFlow Lite >= {runtime}, or {'any' if is_older else 'as recent a'} LiteRT"


def with_labels(content: bytes, labels: Sequence[str]) -> bytes:
    """Append the names of the classes, as the associated file `labels.txt`.

    TFLite's metadata keeps associated files in a ZIP at the end of a file: a runtime does not read
    it, but `unzip model.tflite` does.
    """
    stream = io.BytesIO(content)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        # With the time of writing, no two files would be equal.
        entry = zipfile.ZipInfo(LABELS_FILE, date_time=(1980, 1, 1, 0, 0, 0))
        archive.writestr(entry, "\n".join(labels) + "\n")
    return stream.getvalue()


def _version(content: bytes) -> tuple[int, ...]:
    parts = content.rstrip(b"\0").split(b".")
    return tuple(int(p) for p in parts) if all(p.isdigit() for p in parts) else (0, 0, 0)


def _named(model: Any, name: str) -> Any:
    for metadata in model.metadata or []:
        if metadata.name in (name, name.encode()):
            return metadata
    return None


def _entry(model: Any, name: str) -> bytes | None:
    metadata = _named(model, name)
    if metadata is None or model.buffers[metadata.buffer].data is None:
        return None
    return bytes(bytearray(model.buffers[metadata.buffer].data))


def _set_entry(model: Any, name: str, content: bytes) -> None:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    metadata = _named(model, name)
    if metadata is None:
        metadata = schema.MetadataT()
        metadata.name = name
        model.metadata = [*(model.metadata or []), metadata]
    # The buffer that it had is now an orphan, and is dropped when the model is written.
    metadata.buffer = len(model.buffers) - 1
