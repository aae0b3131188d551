"""Files that are written whole or not at all, locks, and the errors of what can't be written."""

import contextlib
import csv
import errno
import fcntl
import io
import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

logger = logging.getLogger(__name__)

LOCK = ".lock"


class RunError(Exception):
    """A run that can't start or go on; the message says why and what to do."""

    exit_status = 2


class WriteError(RunError):
    """A file of the run that can't be written.

    Args:
        path: The file, or the folder.
        error: The error of the operating system.
    """

    exit_status = 1

    def __init__(self, path: Path, error: OSError):
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        super().__init__(
            f"The disk is full: could not write {path}. Free some space; what was written before "
            "is intact."
            if is_full
            else f"Could not write {path}: {error.strerror or error}."
        )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error in writing a file or a folder into a `WriteError`."""
    try:
        yield
    except OSError as error:
        raise WriteError(path, error) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file as one atomic unit.

    Yields a temporary path with the same suffix beside it. When the block ends, that file is
    flushed to the disk and takes the name of `path`; if the block fails, it is removed, and `path`
    is unchanged.

    Args:
        path: The file to write or replace.

    Raises:
        WriteError: If it can't be written.
    """
    temporary = path.with_name(f".{path.stem}.writing{path.suffix}")
    try:
        with writing(path):
            yield temporary
            _flush_to_disk(temporary)
            os.replace(temporary, path)
            _flush_to_disk(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as one atomic unit, as `replacing` does.

    Args:
        path: The file to write or replace.
        text: Its content.

    Raises:
        WriteError: If it can't be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file as one atomic unit, as `replacing` does.

    Args:
        path: The file to write or replace.
        content: What JSON can hold.

    Raises:
        WriteError: If it can't be written.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file as one atomic unit, as `replacing` does.

    Args:
        path: The file to write or replace.
        rows: Its lines; a column for each name that occurs in them.

    Raises:
        WriteError: If it can't be written.
    """
    text = io.StringIO()
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


@contextlib.contextmanager
def locked(path: Path, refusal: str | None = None, *, is_transient: bool = False) -> Iterator[None]:
    """Hold a lock on a file as long as the block lasts.

    Args:
        path: The file, which is created if it does not exist.
        refusal: Error message if another process has the lock; `None` waits for the lock.
        is_transient: Whether the file is removed when the block ends.

    Raises:
        RunError: With the refusal, if another process has the lock.
        WriteError: If the file can't be made.
    """
    with _opened_and_locked(path, refusal) as file:
        try:
            yield
        finally:
            if is_transient:
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                        path.unlink()


def _opened_and_locked(path: Path, refusal: str | None) -> IO[str]:
    while True:
        with writing(path):
            file = open(path, "w", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if refusal is None else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            raise RunError(refusal) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                file.close()
                raise WriteError(path, error) from error
            logger.warning(
                "The file system of %s locks no files: see yourself that no other process works "
                "in it.",
                path.parent,
            )
            return file
        # The process that had the lock may have removed the file since it was opened here.
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
