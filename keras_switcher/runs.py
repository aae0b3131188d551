"""The folder of a run: its state, its files, and checkpoints that survive any interruption."""

import contextlib
import csv
import dataclasses
import errno
import fcntl
import hashlib
import io
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml

logger = logging.getLogger(__name__)

RUNS = Path("runs")
CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
MODEL_FILE = "model.keras"
STRIPPED_FILE = "stripped.keras"
DENSE_FILE = "dense.keras"
HISTORY_FILE = "history.csv"
REPORT_FILE = "report.html"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"

_GONE = ".finished"
_FORMAT = b"keras_switcher checkpoint 1 "


class RunError(Exception):
    """A run that can't start or go on; the message says why and what to do."""

    exit_status = 2


class CheckpointError(RunError):
    """A checkpoint that can't be read, or belongs to another run.

    Args:
        what: What is wrong with it.
        advice: What to do in a run of train.py; empty if that is not known yet.
    """

    def __init__(self, what: str, advice: str = ""):
        super().__init__(f"{what} {advice}".rstrip())
        self.what = what


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


def newest_run(model: str = "*", dataset: str = "*", root: Path = RUNS) -> Path | None:
    """Return the run that was started or resumed last, if there is one.

    Args:
        model: Name of its model; `*` for any.
        dataset: Name of its data set; `*` for any.
        root: Where the runs are.
    """
    wanted = {n: v for n, v in (("model", model), ("dataset", dataset)) if v != "*"}
    # A run writes its configuration whenever it is started or resumed.
    configs = sorted(root.glob(f"*/{CONFIG_FILE}"), key=lambda path: -path.stat().st_mtime_ns)
    return next((path.parent for path in configs if wanted.items() <= _known(path).items()), None)


def _known(path: Path) -> dict[str, Any]:
    """Return the model and the data set in a file of a run's configuration, if they can be read."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        values = None
    values = values if isinstance(values, dict) else {}
    return {name: values.get(name) for name in ("model", "dataset")}


def new_run(model: str, dataset: str, root: Path = RUNS) -> Path:
    """Make the default folder of a new run, `runs/<model>-<dataset>-<number>`, and return it.

    Raises:
        WriteError: If it can't be made.
    """
    taken = [path.name.rpartition("-")[2] for path in root.glob(f"{model}-{dataset}-*")]
    numbers = itertools.count(1 + max((int(n) for n in taken if n.isdecimal()), default=0))
    for path in (root / f"{model}-{dataset}-{number}" for number in numbers):
        # Another run may take the number at the same moment.
        with writing(path), contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            break
    return path


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
        return any(
            (self.path / name).exists()
            for name in (CONFIG_FILE, CHECKPOINTS, MODEL_FILE, SUMMARY_FILE)
        )

    @property
    def results(self) -> list[str]:
        """The names of the files here that a run would replace, and that do not make one."""
        names = (STRIPPED_FILE, DENSE_FILE, HISTORY_FILE, f"dense_{HISTORY_FILE}", REPORT_FILE)
        return [name for name in names if (self.path / name).exists()]

    @property
    def is_finished(self) -> bool:
        """Whether the run here has finished, so that its files are complete."""
        return (self.path / SUMMARY_FILE).is_file() and not (self.path / CHECKPOINTS).exists()

    def start(self, config: str) -> None:
        """Make the folder if there is none, and write the configuration of the run into it.

        Args:
            config: The configuration, as YAML.

        Raises:
            RunError: If it can't be written.
        """
        self._make()
        # The configuration is written first, as a run can be resumed from it alone.
        self.write_text(CONFIG_FILE, config)
        with writing(self.path):
            (self.path / CHECKPOINTS).mkdir(exist_ok=True)

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (NotADirectoryError, FileExistsError):
            raise RunError(
                f"Can't make the folder {self.path}: part of its path is a file."
            ) from None
        except OSError as error:
            raise RunError(f"Can't write the folder {self.path}: {error.strerror}.") from error

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Keep other processes from continuing the run as long as the block lasts.

        Raises:
            RunError: If another process is working on it, or the folder can't be made.
        """
        self._make()
        with locked(
            self.path / LOCK,
            f"The run in {self.path} is under way in another process. Wait for it, or name "
            "another one by --run-dir.",
            is_transient=True,
        ):
            yield

    def discard(self) -> None:
        """Undo `start` for a run that could not begin."""
        with contextlib.suppress(OSError):
            (self.path / CONFIG_FILE).unlink()
            (self.path / CHECKPOINTS).rmdir()
            (self.path / LOCK).unlink(missing_ok=True)
            self.path.rmdir()

    def write_text(self, name: str, text: str) -> None:
        """Write a text file as one atomic unit."""
        write_text(self.path / name, text)

    def write_history(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one line per epoch as CSV."""
        text = io.StringIO()
        columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text(name, text.getvalue())

    def finish(self) -> None:
        """Mark the run as finished by removing its checkpoints."""
        # One rename takes them away; deleting them file by file could stop half-way.
        self.tidy()
        with writing(self.path):
            os.replace(self.path / CHECKPOINTS, self.path / _GONE)
        self.tidy()

    def tidy(self) -> None:
        """Remove the checkpoints of a run that was killed while it removed them."""
        shutil.rmtree(self.path / _GONE, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of training after an epoch.

    Args:
        epoch: Number of epochs done.
        rows: The lines of the history so far.
        facts: What the state belongs to; a run that differs in these facts can't continue from it.
        arrays: Every variable, in the order of the model and its optimisers.
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
