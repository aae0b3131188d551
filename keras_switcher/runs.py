"""The folder of a run: its state, its files, and checkpoints that survive any interruption."""

import contextlib
import csv
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

RUNS = Path("runs")
CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
MODEL_FILE = "model.keras"
STRIPPED_FILE = "stripped.keras"
HISTORY_FILE = "history.csv"
CHECKPOINTS = "checkpoints"

_FORMAT = "keras_switcher checkpoint 1"


class RunError(Exception):
    """A run that can't start or go on; the message says why and what to do."""

    exit_status = 2


class CheckpointError(RunError):
    """A checkpoint that can't be read, or is of another run."""


class WriteError(RunError):
    """A file of the run that can't be written."""

    exit_status = 1


def newest_run(model: str, dataset: str, root: Path = RUNS) -> Path | None:
    """Return the run of the highest number that has the default name, if there is one."""
    numbers = _numbers(model, dataset, root)
    return root / f"{model}-{dataset}-{max(numbers)}" if numbers else None


def new_run(model: str, dataset: str, root: Path = RUNS) -> Path:
    """Return the default folder of a new run: `runs/<model>-<dataset>-<number>`."""
    return root / f"{model}-{dataset}-{max(_numbers(model, dataset, root), default=0) + 1}"


def _numbers(model: str, dataset: str, root: Path) -> list[int]:
    name = re.compile(rf"{re.escape(model)}-{re.escape(dataset)}-(\d+)")
    entries = root.iterdir() if root.is_dir() else ()
    return [int(match[1]) for entry in entries if (match := name.fullmatch(entry.name))]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file as one atomic unit.

    Yields a temporary path of the same suffix beside it. When the block ends, that file is on the
    disk and takes the name of `path`; when it fails, it is removed, and `path` is as before.

    Args:
        path: The file to write or replace.

    Raises:
        WriteError: If it can't be written.
    """
    temporary = path.with_name(f".{path.stem}.writing{path.suffix}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    except OSError as error:
        raise WriteError(_cannot_write(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full: could not write {path}. Free some space; what was written before "
            "is intact."
        )
    return f"Could not write {path}: {error.strerror or error}."


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Args:
        path: Where it is, or will be.
    """

    path: Path

    @property
    def has_run(self) -> bool:
        """Whether a run was started here."""
        return (self.path / CONFIG_FILE).exists() or self.is_finished

    @property
    def is_finished(self) -> bool:
        """Whether the run here came to its end: what it leaves is complete."""
        return (self.path / SUMMARY_FILE).is_file() and not (self.path / CHECKPOINTS).exists()

    def create(self) -> None:
        """Make the folder, and see that it can be written.

        Raises:
            RunError: If it can't.
        """
        try:
            (self.path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise RunError(f"Expected a folder. Received: the file {self.path}") from None
        except NotADirectoryError:
            raise RunError(f"Can't make {self.path}: part of its path is a file.") from None
        except OSError as error:
            raise RunError(f"Can't write the folder {self.path}: {error.strerror}.") from error
        self.write_text(".writable", "")
        (self.path / ".writable").unlink()

    def write_text(self, name: str, text: str) -> None:
        """Write a text file as one atomic unit."""
        with replacing(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def write_history(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one line per epoch as CSV."""
        text = io.StringIO()
        columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text(name, text.getvalue())

    def finish(self) -> None:
        """Mark the run as finished: its checkpoints go."""
        # One rename takes them away; deleting them file by file could stop half-way.
        gone = self.path / ".finished"
        os.replace(self.path / CHECKPOINTS, gone)
        shutil.rmtree(gone, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of training after an epoch.

    Args:
        epoch: Number of epochs done.
        rows: The lines of the history so far.
        facts: What the state belongs to; a run that differs in it can't go on from here.
        arrays: Every variable, in the order of the model and its optimisers.
    """

    epoch: int
    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    arrays: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one network of a run: the newest two, each one file.

    Args:
        folder: Where they lie.
        name: What they are of; the files are `<name>-<epoch>.checkpoint`.
    """

    folder: Path
    name: str

    def _path(self, epoch: int) -> Path:
        return self.folder / f"{self.name}-{epoch:05d}.checkpoint"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.name}-*.checkpoint"), reverse=True)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint as one atomic unit, then remove all but the one before.

        Args:
            checkpoint: The state.

        Raises:
            WriteError: If it can't be written; the checkpoints before it are as they were.
        """
        content = io.BytesIO()
        np.savez(content, *checkpoint.arrays)
        payload = content.getbuffer()
        header = {
            "format": _FORMAT,
            "sha256": hashlib.sha256(payload).hexdigest(),
            "epoch": checkpoint.epoch,
            "rows": checkpoint.rows,
            "facts": checkpoint.facts,
        }
        with (
            replacing(self._path(checkpoint.epoch)) as temporary,
            open(temporary, "wb") as file,
        ):
            file.write(json.dumps(header).encode() + b"\n")
            file.write(payload)
        for old in self._paths()[2:]:
            old.unlink(missing_ok=True)

    def load(self) -> Checkpoint | None:
        """Read the newest checkpoint; if it is damaged, warn and read the one before.

        Returns:
            The checkpoint, or `None` if there is none.

        Raises:
            CheckpointError: If all that are there are damaged or foreign.
        """
        problems = []
        for path in self._paths():
            try:
                checkpoint = _read(path)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                logger.warning("%s Going on from the one before: %s.", problem, path)
            return checkpoint
        if problems:
            raise CheckpointError(
                f"{' '.join(problems)} There is no other to go on from: remove the folder "
                f"{self.folder.parent} and start anew, or choose another --run-dir."
            )
        return None


def _read(path: Path) -> Checkpoint:
    try:
        line, separator, payload = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise CheckpointError(f"Can't read the checkpoint {path}: {error.strerror}.") from error
    try:
        header = json.loads(line)
        is_ours = header["format"] == _FORMAT
    except (ValueError, TypeError, KeyError):
        is_ours = False
    if not separator or not is_ours:
        raise CheckpointError(f"{path} is not a checkpoint of keras_switcher.")
    if hashlib.sha256(payload).hexdigest() != header["sha256"]:
        raise CheckpointError(f"The checkpoint {path} is damaged: its checksum does not match.")
    with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
        arrays = [archive[f"arr_{index}"] for index in range(len(archive.files))]
    return Checkpoint(header["epoch"], header["rows"], header["facts"], arrays)
