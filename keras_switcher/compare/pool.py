"""The cells of a comparison in processes of their own, several at a time."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_switcher.children import Children, how_it_ended
from keras_switcher.compare.cell import CELL_FILE
from keras_switcher.compare.plan import ERROR_FILE, LOG_FILE, RESULT_FILE, Cell, Plan, cell_folder
from keras_switcher.compare.results import read_result
from keras_switcher.config import from_values, influences, to_values
from keras_switcher.files import write_json
from keras_switcher.initial import file_digest
from keras_switcher.machine import THREADS, child_environment
from keras_switcher.runs import CHECKPOINTS, RunFolder
from keras_switcher.signals import Interrupted

_OTHER_THREADS = ("TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")


class Pool:
    """Trains cells, each in a process of its own, several at a time.

    A cell that has a result is not trained again; one that was stopped continues from its last
    epoch.

    Args:
        plan: The comparison.
        folder: Its folder.
        source: The source of its data.
        processes: How many cells are trained at a time.
        threads: Number of TensorFlow's threads in each.
        ended: Called whenever a cell has ended, with the cell and, if it failed, the reason.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        source: str,
        processes: int,
        threads: int,
        ended: Callable[[Cell, str | None], None],
    ):
        self.plan = plan
        self.folder = folder
        self.source = source
        self.processes = processes
        self.threads = threads
        self.ended = ended
        self._running: dict[Cell, subprocess.Popen[bytes]] = {}
        self._places: dict[Cell, int] = {}
        self._failed: dict[Cell, str] = {}
        self._children = Children()

    def run(self) -> dict[Cell, str]:
        """Train all cells that have no result; return those that failed, and why.

        Raises:
            Interrupted: If a signal came; what was trained is kept.
        """
        waiting = []
        for cell in self.plan.cells():
            if self._has_result(cell):
                # The cell may have been killed when only this was left to do.
                folder = RunFolder(cell_folder(self.folder, cell))
                if (folder.path / CHECKPOINTS).exists():
                    folder.finish()
                folder.tidy()
            else:
                waiting.append(cell)
        with self._children.supervised():
            while waiting or self._running:
                if self._children.signal is not None:
                    raise Interrupted(self._children.signal)
                self._start_ready(waiting)
                self._collect()
                time.sleep(0.1)
        if self._children.signal is not None:
            raise Interrupted(self._children.signal)
        return self._failed

    def _has_result(self, cell: Cell) -> bool:
        return (cell_folder(self.folder, cell) / RESULT_FILE).exists()

    def _start_ready(self, waiting: list[Cell]) -> None:
        for cell in list(waiting):
            needed = self.plan.needed(cell)
            lost = [each for each in needed if each in self._failed]
            if lost:
                waiting.remove(cell)
                self._fail(cell, f"It needs the result of {lost[0].name}, which failed.")
            elif len(self._running) < self.processes and all(map(self._has_result, needed)):
                waiting.remove(cell)
                self._start(cell)

    def _start(self, cell: Cell) -> None:
        folder = cell_folder(self.folder, cell)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR_FILE).unlink(missing_ok=True)
        order = {
            "cell": {
                "method": str(cell.variant),
                "target_sparsity": cell.target_sparsity,
                "seed": cell.seed,
            },
            "method": cell.variant.method,
            # The process of a cell tells of one that is gone.
            "code": {
                path: file_digest(path)
                for path in self.plan.config.run.load
                if Path(path).is_file()
            },
            "keeps_models": self.plan.keeps_models,
            "config": to_values(cell.config(self.plan.config), only_saved=True),
            "source": self.source,
            "found": {
                needed.variant.method: read_result(cell_folder(self.folder, needed))
                for needed in self.plan.needed(cell)
            },
        }
        path = folder / CELL_FILE
        if path.exists() and _is_another(path.read_bytes(), order):
            for part in (CHECKPOINTS, "tensorboard"):
                shutil.rmtree(folder / part, ignore_errors=True)
        write_json(path, order)
        self._places[cell] = min({*range(self.processes)} - {*self._places.values()})
        environment = {
            **child_environment(self._places[cell]),
            **dict.fromkeys((THREADS, *_OTHER_THREADS), str(self.threads)),
        }
        with open(folder / LOG_FILE, "ab") as log:
            self._running[cell] = self._children.start(
                [
                    sys.executable,
                    "-m",
                    "keras_switcher.compare.cell",
                    str(folder),
                    str(os.getpid()),
                ],
                environment,
                stdout=log,
                stderr=log,
            )

    def _collect(self) -> None:
        for cell, process in list(self._running.items()):
            status = process.poll()
            if status is None:
                continue
            del self._running[cell], self._places[cell]
            if status == 0 and self._has_result(cell):
                self.ended(cell, None)
            elif self._children.signal is None:
                # Otherwise it ended since it was asked to.
                self._fail(cell, self._reason(cell, status))

    def _reason(self, cell: Cell, status: int) -> str:
        path = cell_folder(self.folder, cell) / ERROR_FILE
        if path.exists():
            return path.read_text(encoding="utf-8").strip()
        return f"It {how_it_ended(status)}."

    def _fail(self, cell: Cell, reason: str) -> None:
        self._failed[cell] = reason
        self.ended(cell, reason)


def _is_another(text: bytes, order: dict[str, Any]) -> bool:
    """Return whether a cell is to be trained differently from how it began, or by other code.

    Args:
        text: The content of the cell's file, when it began.
        order: The content now.
    """
    try:
        earlier = json.loads(text)
    except ValueError:
        # Damaged: no one knows.
        return True
    new = json.loads(json.dumps(order))
    first, second = earlier["config"], new["config"]
    code = earlier["code"]
    return (
        influences(from_values(first)) != influences(from_values(second))
        or earlier["found"] != new["found"]
        # One file more or less registers other methods than the cell's.
        or any(code.get(path, digest) != digest for path, digest in new["code"].items())
    )
