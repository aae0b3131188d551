"""Checkpoints of a training that survive any interruption."""

import dataclasses
import hashlib
import io
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_switcher.files import RunError, replacing

logger = logging.getLogger(__name__)

_FORMAT = b"keras_switcher checkpoint 1 "


class CheckpointError(RunError):
    """A checkpoint that can't be read, or belongs to another run.

    Args:
        what: What is wrong with it.
        advice: What to do in a run of train.py; empty if that is not known yet.
    """

    def __init__(self, what: str, advice: str = ""):
        super().__init__(f"{what} {advice}".rstrip())
        self.what = what


def storable(array: Any) -> np.ndarray:
    """Return an array in a type that NumPy's files hold: bfloat16, which they don't, as float32."""
    array = np.asarray(array)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def digest_of(arrays: Iterable[np.ndarray]) -> str:
    """Return a string that tells arrays with other values apart."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(array.tobytes())
    return content.hexdigest()


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of training after an epoch.

    Args:
        epoch: Number of epochs done.
        rows: The lines of the history so far.
        facts: What the state belongs to; a run that differs in these facts can't continue from it.
        arrays: Every variable, `storable`, in the order of the model and its optimisers.
    """

    epoch: int
    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    arrays: list[np.ndarray]

    def to_bytes(self) -> bytes:
        """Return it as bytes."""
        content = io.BytesIO()
        header = {"epoch": self.epoch, "rows": self.rows, "facts": self.facts}
        content.write(json.dumps(header).encode() + b"\n")
        np.savez(content, *self.arrays)
        return content.getvalue()

    @classmethod
    def from_bytes(cls, payload: bytes) -> "Checkpoint":
        """Return the checkpoint that `to_bytes` turned into bytes."""
        line, _, content = payload.partition(b"\n")
        header = json.loads(line)
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = [archive[f"arr_{index}"] for index in range(len(archive.files))]
        return cls(header["epoch"], header["rows"], header["facts"], arrays)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The two newest checkpoints of one network of a run, each in one file.

    Args:
        folder: Folder of the files.
        name: Name of the network; the files are `<name>-<epoch>.checkpoint`.
    """

    folder: Path
    name: str

    def _path(self, epoch: int) -> Path:
        return self.folder / f"{self.name}-{epoch:05d}.checkpoint"

    def _paths(self) -> list[Path]:
        def epoch(path: Path) -> str:
            return path.stem.removeprefix(f"{self.name}-")

        # Copies that others have made have other names, and so have those of a network `<name>-2`.
        found = [p for p in self.folder.glob(f"{self.name}-*.checkpoint") if epoch(p).isdecimal()]
        return sorted(found, key=lambda path: int(epoch(path)), reverse=True)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint as one atomic unit, then remove all others but the one before it.

        Args:
            checkpoint: The state.

        Raises:
            WriteError: If it can't be written; the checkpoints before it are unchanged.
        """
        payload = checkpoint.to_bytes()
        with (
            replacing(self._path(checkpoint.epoch)) as temporary,
            open(temporary, "wb") as file,
        ):
            file.write(_FORMAT + hashlib.sha256(payload).hexdigest().encode() + b"\n")
            file.write(payload)
        for old in self._paths()[2:]:
            old.unlink(missing_ok=True)

    def load(self) -> Checkpoint | None:
        """Read the newest checkpoint; if it is damaged, warn and read the one before.

        Returns:
            The checkpoint, or `None` if there is none.

        Raises:
            CheckpointError: If all checkpoints that are there are damaged or foreign.
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
                f"{' '.join(problems)} There is no other to go on from.",
                f"Remove the folder {self.folder.parent} and start anew, or choose another "
                "--run-dir.",
            )
        return None


def _read(path: Path) -> Checkpoint:
    try:
        first, _, payload = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise CheckpointError(f"Can't read the checkpoint {path}: {error.strerror}.") from error
    if not first.startswith(_FORMAT):
        raise CheckpointError(f"{path} is not a checkpoint of keras_switcher, or it is damaged.")
    if hashlib.sha256(payload).hexdigest().encode() != first.removeprefix(_FORMAT):
        raise CheckpointError(f"The checkpoint {path} is damaged: its checksum does not match.")
    return Checkpoint.from_bytes(payload)
