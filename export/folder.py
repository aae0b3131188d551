"""The folder of an export: one export at a time, and only files in it that were verified."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from keras_switcher.files import LOCK, WriteError, locked, writing

from .errors import ExportError

EXPORT_FILE = "export.json"
CHART_FILE = "export.png"
CARD_FILE = "model_card.md"
PAGE_FILE = "page.json"
_SCRATCH = ".unproven-"
# Files that an export may leave; one of an earlier export that this one did not make is stale.
_OWN = (
    *(f"model_{kind}.tflite" for kind in ("dense", "sparse", "compact", "int8", "float16")),
    EXPORT_FILE,
    CHART_FILE,
    CARD_FILE,
    PAGE_FILE,
)


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[Path]:
    """Hold a folder for one export, and yield an empty folder inside it to work in.

    The inner folder is removed when the block ends, however it ends.

    Args:
        out: The folder; it is created if it does not exist.

    Raises:
        ExportError: If it is not a folder, or it holds files that no export wrote but that have the
            names of an export's files.
        RunError: If another export is writing into it.
        WriteError: If it can't be written.
    """
    if out.exists() and not out.is_dir():
        raise ExportError(f"Expected --out to be a folder. Received: {out}, which is a file")
    was_there = out.exists()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    refusal = f"Another export is writing into {out}: wait for it, or choose another --out."
    try:
        with locked(out / LOCK, refusal, is_transient=True):
            _clean(out)
            foreign = [name for name in _OWN if (out / name).exists()]
            if foreign and EXPORT_FILE not in foreign:
                raise ExportError(
                    "Expected --out to be a new folder, or that of an earlier export. Received: "
                    f"{out}, where {', '.join(foreign)} would be lost: choose another --out."
                )
            with writing(out):
                scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=out))
            try:
                yield scratch
            finally:
                _clean(out)
    finally:
        if not was_there:
            with contextlib.suppress(OSError):
                out.rmdir()  # succeeds only if nothing was published


def publish(out: Path, scratch: Path, names: Iterable[str]) -> None:
    """Give verified files their final names, and remove what an earlier export left beside them.

    Args:
        out: The folder of the export.
        scratch: The folder that the files are in.
        names: Their names.

    Raises:
        WriteError: If it can't be written.
    """
    names = list(names)
    with writing(out):
        # First export.json, which marks the other files as an export's.
        for name in sorted(names, key=lambda name: name != EXPORT_FILE):
            os.replace(scratch / name, out / name)
        for name in set(_OWN) - set(names):
            (out / name).unlink(missing_ok=True)


def write(path: Path, content: bytes | str) -> None:
    """Write a file and make sure that it is on the disk.

    Args:
        path: The file.
        content: Its content.

    Raises:
        WriteError: If it can't be written, such as when the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise WriteError(path, error) from error


def _clean(out: Path) -> None:
    """Remove the inner folder of this export, or of one that was killed."""
    for scratch in out.glob(f"{_SCRATCH}*"):
        shutil.rmtree(scratch, ignore_errors=True)
