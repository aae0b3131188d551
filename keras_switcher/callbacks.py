"""The callbacks of `train.py`: progress, history, checkpoints, stopping in time."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from keras_switcher.alternation import ALTERNATE, WARMUP
from keras_switcher.checkpoints import Checkpoint, CheckpointError, Checkpoints, digest_of, storable
from keras_switcher.display import say
from keras_switcher.files import RunError, write_csv
from keras_switcher.runs import RunFolder
from keras_switcher.signals import Interrupted, StopSignals
from keras_switcher.workers import Workers

logger = logging.getLogger(__name__)

Row = dict[str, Any]

# Seconds after which the workers ask each other again whether a signal has come.
_ASK_EVERY = 0.2


class Diverged(RunError):
    """The loss or a weight is no longer a finite number.

    Args:
        what: Which of them, and when.
    """

    exit_status = 1

    def __init__(self, what: str):
        super().__init__(
            f"Training has diverged. {what} Start anew in another --run-dir with a lower "
            "--learning-rate, a lower --switcher-learning-rate, or --precision float32. If an "
            "epoch was good, its checkpoint is kept: --resume would take the same steps from "
            "there again."
        )
        self.what = what


class StopOnSignal(keras.callbacks.Callback):
    """Ends training after the batch during which Ctrl-C or SIGTERM came.

    From the last batch of an epoch on, it waits for the validation and for the callbacks before it,
    which write the checkpoint: what is left of the epoch is short, and would all be lost.

    Several workers ask each other a few times a second, and all end after the same batch, even if
    only one of them received the signal.

    Args:
        signals: The signals received so far.
        workers: The workers of the run.
    """

    def __init__(self, signals: StopSignals, workers: Workers):
        super().__init__()
        self.signals = signals
        self.workers = workers
        self._batches, self._asked = 0, time.perf_counter()
        # Batches between two questions, by the slowest worker, so that all count the same.
        self._every = 1

    def on_train_batch_end(self, batch: int, logs: Row | None = None) -> None:
        if batch + 1 == (self.params or {}).get("steps"):
            # The end of the epoch comes at once.
            return
        self._batches += 1
        if self._batches >= self._every:
            self._ask()

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        self._ask()

    def _ask(self) -> None:
        if self.workers.count == 1:
            self.signals.check()
            return
        seconds = (time.perf_counter() - self._asked) / max(1, self._batches)
        answers = self.workers.gather("signals", [self.signals.received or 0, seconds])
        if received := max(number for number, _ in answers):
            raise Interrupted(received)
        self._every = max(1, min(1000, int(_ASK_EVERY / max(s for _, s in answers))))
        self._batches, self._asked = 0, time.perf_counter()


class StopOnDivergence(keras.callbacks.Callback):
    """Ends training as soon as the loss is not a finite number.

    Raises:
        Diverged: With advice on what to try.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Row | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Row | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise Diverged(f"The loss is {loss} in epoch {self._epoch + 1}, batch {batch + 1}.")

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise Diverged(f"The validation loss is {loss} after epoch {epoch + 1}.")


class EpochRows(keras.callbacks.Callback):
    """Keeps a row per epoch: `epoch, phase, loss, accuracy, sparsity, val_loss, val_accuracy, ...`.

    Args:
        rows: The rows of the epochs already done, if training continues from a checkpoint.
        more: Names of other columns, which are added if the logs have them.
    """

    def __init__(self, rows: list[Row], more: Sequence[str] = ()):
        super().__init__()
        self.rows = list(rows)
        self.more = tuple(more)
        self._start = 0.0

    def on_epoch_begin(self, epoch: int, logs: Row | None = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        logs = logs or {}
        phase = _phase(self.model)
        row: Row = {"epoch": epoch + 1} | ({} if phase is None else {"phase": phase})
        names = ("loss", "accuracy", "sparsity", "val_loss", "val_accuracy", *self.more)
        row |= {name: float(logs[name]) for name in names if name in logs}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        row["seconds"] = round(time.perf_counter() - self._start, 3)
        self.rows.append(row)


def _phase(model: keras.Model) -> str | None:
    """Return the phase of a model's last step; `None` if it has no phases."""
    phase: str | None = getattr(model, "phase", None)
    if phase == ALTERNATE:
        state = model.alternation_state
        step, begin = (int(ops.convert_to_numpy(v)) for v in (state.step, state.plan[0]))
        # The model's own phase is that of its next step.
        return WARMUP if step == begin else phase
    return phase


class WorkersDiffer(RunError):
    """The workers do not have the same weights."""

    exit_status = 1


class SaveCheckpoints(keras.callbacks.Callback):
    """Writes a checkpoint and the history after every epoch.

    With several workers, the chief writes, after all have checked that their states are the same.

    Args:
        checkpoints: Where the checkpoints go.
        rows: The callback that makes the rows of the history; it must come before this one.
        facts: Facts that identify what the state belongs to.
        folder: The run's folder.
        history: File name of the history in that folder.
        workers: The workers of the run.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        rows: EpochRows,
        facts: dict[str, Any],
        folder: RunFolder,
        history: str,
        workers: Workers,
    ):
        super().__init__()
        self.checkpoints = checkpoints
        self.rows = rows
        self.facts = facts
        self.folder = folder
        self.history = history
        self.workers = workers

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        arrays = [storable(keras.ops.convert_to_numpy(v)) for v in variables(self.model)]
        for variable, array in zip(variables(self.model), arrays, strict=True):
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise Diverged(f"{variable.path} is not finite after epoch {epoch + 1}.")
        self._compare(arrays, epoch)
        if self.workers.is_chief:
            self.checkpoints.save(Checkpoint(epoch + 1, self.rows.rows, self.facts, arrays))
            write_csv(self.folder.path / self.history, self.rows.rows)

    def _compare(self, arrays: list[np.ndarray], epoch: int) -> None:
        if self.workers.count == 1:
            return
        digest = digest_of(arrays)[:16]
        logger.debug("State after epoch %d: %s", epoch + 1, digest)
        digests = self.workers.gather("the state after an epoch", digest)
        if len(set(digests)) > 1:
            raise WorkersDiffer(
                f"The workers have different weights after epoch {epoch + 1}: machines of "
                "different kinds may round differently. Use machines of one kind; the checkpoint "
                f"before is kept. Received: {', '.join(digests)}"
            )


def variables(model: keras.Model) -> list[Any]:
    """Return all variables that change in training, each once, in a fixed order.

    These are the weights, the switches, the state of the alternation, the seeds of dropout, and
    the moments, steps and loss scales of both optimisers.

    Args:
        model: A compiled and built model.
    """
    optimizers = [model.optimizer, getattr(model, "switcher_optimizer", None)]
    found = list(model.variables)
    for optimizer in optimizers:
        found += [] if optimizer is None else optimizer.variables
    return list({id(variable): variable for variable in found}.values())


def restore(model: keras.Model, checkpoint: Checkpoint, facts: dict[str, Any]) -> None:
    """Restore a model to the state of a checkpoint.

    Args:
        model: A compiled and built model of the same configuration.
        checkpoint: The state.
        facts: Facts that identify what the state must belong to.

    Raises:
        CheckpointError: If the checkpoint belongs to something else.
    """
    different = [name for name in facts if checkpoint.facts.get(name) != facts[name]]
    if different:
        advice = (
            "Name the folder of its data by --data-dir or TFDS_DATA_DIR, or choose another "
            "--run-dir to start anew."
            if different == ["data"]
            else "Choose another --run-dir to start anew."
        )
        raise CheckpointError(
            "The checkpoint is of another run. "
            + " ".join(
                f"Expected {name} {checkpoint.facts.get(name)!r}, as in the checkpoint. "
                f"Received: {facts[name]!r}."
                for name in different
            ),
            advice,
        )
    targets = variables(model)
    shapes = [array.shape for array in checkpoint.arrays]
    if shapes != [tuple(variable.shape) for variable in targets]:
        raise CheckpointError(
            "The checkpoint is of another network: its variables have other shapes.",
            "Choose another --run-dir to start anew.",
        )
    for variable, array in zip(targets, checkpoint.arrays, strict=True):
        variable.assign(array)


class ProgressBar(keras.callbacks.Callback):
    """Shows a bar for the whole training and a line per epoch; without a terminal, only the lines.

    Args:
        console: Where to show them.
        title: Name of what is trained.
        epochs: Number of epochs in all.
        rows: The callback that makes the rows; it must come before this one.
    """

    def __init__(self, console: Console, title: str, epochs: int, rows: EpochRows):
        super().__init__()
        self.console = console
        self.title = title
        self.epochs = epochs
        self.rows = rows
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("steps, left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=None)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar for as long as the block, a `fit`, lasts."""
        with self._progress:
            yield

    def on_train_batch_end(self, batch: int, logs: Row | None = None) -> None:
        epoch, steps = len(self.rows.rows), self.params["steps"]
        loss = (logs or {}).get("loss", math.nan)
        self._progress.update(
            self._task,
            total=self.epochs * steps,
            completed=epoch * steps + batch + 1,
            description=f"{self.title} {epoch + 1}/{self.epochs} loss {loss:.4f}",
        )

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        say(self.console, epoch_line(self.rows.rows[-1], self.epochs))


def epoch_line(row: Row, epochs: int) -> str:
    """Return the line that shows an epoch.

    Args:
        row: The row of the epoch.
        epochs: Number of epochs in all.
    """
    formats: dict[str, tuple[str, Callable[[Any], str]]] = {
        "phase": ("", lambda v: f"{v:9}"),
        "loss": ("loss ", lambda v: f"{v:.4f}"),
        "accuracy": ("accuracy ", lambda v: f"{100 * v:6.2f} %"),
        "val_accuracy": ("validation ", lambda v: f"{100 * v:6.2f} %"),
        "sparsity": ("sparsity ", lambda v: f"{100 * v:6.2f} %"),
        "seconds": ("", lambda v: f"{v:.1f} s"),
    }
    parts = [f"{row['epoch']:>{len(str(epochs))}}/{epochs}"]
    parts += [label + show(row[name]) for name, (label, show) in formats.items() if name in row]
    return "  ".join(parts)
