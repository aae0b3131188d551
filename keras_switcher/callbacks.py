"""What `train.py` does beside `fit`: progress, history, checkpoints, stopping in time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from keras_switcher.runs import Checkpoint, CheckpointError, Checkpoints, RunError, RunFolder
from keras_switcher.signals import StopSignals

Row = dict[str, Any]


class Diverged(RunError):
    """The loss or a weight is not a finite number any more."""

    exit_status = 1


class StopOnSignal(keras.callbacks.Callback):
    """Ends training after the batch in which Ctrl-C or SIGTERM came.

    Args:
        signals: What has come.
    """

    def __init__(self, signals: StopSignals):
        super().__init__()
        self.signals = signals

    def on_train_batch_end(self, batch: int, logs: Row | None = None) -> None:
        self.signals.check()

    def on_test_batch_end(self, batch: int, logs: Row | None = None) -> None:
        self.signals.check()


class StopOnDivergence(keras.callbacks.Callback):
    """Ends training as soon as the loss is not a finite number.

    Raises:
        Diverged: With what to try.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Row | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Row | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise _diverged(f"The loss is {loss} in epoch {self._epoch + 1}, batch {batch + 1}.")

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise _diverged(f"The validation loss is {loss} after epoch {epoch + 1}.")


def _diverged(what: str) -> Diverged:
    return Diverged(
        f"Training has diverged. {what} Start anew in another --run-dir with a lower "
        "--learning-rate, a lower --switcher-learning-rate, or --precision float32. The checkpoint "
        "of the last good epoch is kept: --resume would take the same steps from there again."
    )


class EpochRows(keras.callbacks.Callback):
    """One row per epoch: `epoch, phase, loss, accuracy, sparsity, val_loss, val_accuracy, ...`.

    Args:
        rows: The rows of the epochs already done, if training goes on from a checkpoint.
    """

    def __init__(self, rows: list[Row]):
        super().__init__()
        self.rows = list(rows)
        self._start = 0.0

    def on_epoch_begin(self, epoch: int, logs: Row | None = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        logs = logs or {}
        phase = getattr(self.model, "phase", None)
        row: Row = {"epoch": epoch + 1} | ({} if phase is None else {"phase": phase})
        names = ("loss", "accuracy", "sparsity", "val_loss", "val_accuracy")
        row |= {name: float(logs[name]) for name in names if name in logs}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        row["seconds"] = round(time.perf_counter() - self._start, 3)
        self.rows.append(row)


class SaveCheckpoints(keras.callbacks.Callback):
    """Writes a checkpoint and the history after every epoch.

    Args:
        checkpoints: Where the checkpoints go.
        rows: The callback that makes the rows of the history; it must come before this one.
        facts: What the state belongs to.
        folder: The run's folder.
        history: File name of the history in it.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        rows: EpochRows,
        facts: dict[str, Any],
        folder: RunFolder,
        history: str,
    ):
        super().__init__()
        self.checkpoints = checkpoints
        self.rows = rows
        self.facts = facts
        self.folder = folder
        self.history = history

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        arrays = [np.asarray(keras.ops.convert_to_numpy(v)) for v in variables(self.model)]
        for variable, array in zip(variables(self.model), arrays, strict=True):
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise _diverged(f"{variable.path} is not finite after epoch {epoch + 1}.")
        self.checkpoints.save(Checkpoint(epoch + 1, self.rows.rows, self.facts, arrays))
        self.folder.write_history(self.history, self.rows.rows)


def variables(model: keras.Model) -> list[Any]:
    """Return everything that changes in training, each once, in a fixed order.

    The weights, the switches, where the alternation stands, the seeds of dropout, and both
    optimisers with their moments, steps and loss scales.

    Args:
        model: A compiled and built model.
    """
    optimizers = [model.optimizer, getattr(model, "switcher_optimizer", None)]
    found = list(model.variables)
    for optimizer in optimizers:
        found += [] if optimizer is None else optimizer.variables
    return list({id(variable): variable for variable in found}.values())


def restore(model: keras.Model, checkpoint: Checkpoint, facts: dict[str, Any]) -> None:
    """Bring a model to the state of a checkpoint.

    Args:
        model: A compiled and built model of the same configuration.
        checkpoint: The state.
        facts: What the state must belong to.

    Raises:
        CheckpointError: If the checkpoint belongs to something else.
    """
    different = [name for name in facts if checkpoint.facts.get(name) != facts[name]]
    if different:
        raise CheckpointError(
            "The checkpoint is of another run. "
            + " ".join(
                f"Expected {name} {checkpoint.facts.get(name)!r}, as in the checkpoint. "
                f"Received: {facts[name]!r}."
                for name in different
            )
            + " Choose another --run-dir to start anew."
        )
    targets = variables(model)
    shapes = [array.shape for array in checkpoint.arrays]
    if shapes != [tuple(variable.shape) for variable in targets]:
        raise CheckpointError(
            "The checkpoint is of another network: its variables have other shapes. Choose "
            "another --run-dir to start anew."
        )
    for variable, array in zip(targets, checkpoint.arrays, strict=True):
        variable.assign(array)


class ProgressBar(keras.callbacks.Callback):
    """A bar over the whole training, and a line for every epoch; without a terminal, the lines.

    Args:
        console: Where to show them.
        title: What is trained.
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
        """Show the bar as long as the block, a `fit`, lasts."""
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
        line = epoch_line(self.rows.rows[-1], self.epochs)
        self.console.print(line, soft_wrap=True, highlight=False)


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
