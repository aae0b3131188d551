"""The folder of a run: its state and its files."""

import contextlib
import dataclasses
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from keras_switcher.files import LOCK, RunError, locked, write_text, writing

RUNS = Path("runs")
CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
MODEL_FILE = "model.keras"
STRIPPED_FILE = "stripped.keras"
DENSE_FILE = "dense.keras"
HISTORY_FILE = "history.csv"
REPORT_FILE = "report.html"
CHECKPOINTS = "checkpoints"

_GONE = ".finished"


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
        # It is written first.
        return (self.path / CONFIG_FILE).exists()

    @property
    def results(self) -> list[str]:
        """The names of the files here that a run would replace, and that do not make one."""
        names = (
            *(CHECKPOINTS, MODEL_FILE, STRIPPED_FILE, DENSE_FILE, SUMMARY_FILE),
            *(HISTORY_FILE, f"dense_{HISTORY_FILE}", REPORT_FILE),
        )
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
        write_text(self.path / CONFIG_FILE, config)
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
