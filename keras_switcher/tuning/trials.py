"""One trial of a search by the command: its training, and what is kept of it."""

import json
import logging
import math
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_switcher import model as model_module
from keras_switcher import schedule
from keras_switcher.callbacks import Diverged, EpochRows, StopOnDivergence, StopOnSignal
from keras_switcher.config import Config
from keras_switcher.data import ImageData
from keras_switcher.files import replacing, write_json
from keras_switcher.fitting import fit_arguments
from keras_switcher.metrics import switcher_parameters
from keras_switcher.model import SwitchedModel
from keras_switcher.networks import new_start, switched_model
from keras_switcher.signals import StopSignals
from keras_switcher.tuning.folder import damaged
from keras_switcher.tuning.hypermodel import with_options
from keras_switcher.tuning.objective import NAME, LogObjective
from keras_switcher.tuning.plan import Terms
from keras_switcher.tuning.results import EndedTrial
from keras_switcher.tuning.space import Space
from keras_switcher.workers import Workers

logger = logging.getLogger(__name__)

RESULT_FILE, MODEL_FILE = "result.json", "model.keras"
# The name of the hyperparameter that Hyperband adds for the budget of a trial.
_EPOCHS = "tuner/epochs"


class Hopeless(Exception):
    """A trial that is far behind the others."""


# How far behind is hopeless, and how many others there must be at least.
_HOPELESS_BY, _LEAST_OTHERS = 0.05, 5


class StopHopeless(keras.callbacks.Callback):
    """Ends a trial that is far behind the median of the others at the same point.

    Trials with the same number of epochs are compared at the same epoch, from half of the epochs
    on, by their validation accuracy. They may differ in how sparse they are by then, hence the
    margin.

    Args:
        folder: The folder that holds the folders of all trials.
        epochs: Epochs of this trial.

    Raises:
        Hopeless: At the end of an epoch.

    Reference:
        Golovin et al., Google Vizier, 2017, section 3.2.2: the median stopping rule.
    """

    def __init__(self, folder: Path, epochs: int):
        super().__init__()
        self.folder = folder
        self.epochs = epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.epochs / 2 <= epoch + 1 < self.epochs:
            return
        others = []
        for path in self.folder.glob(f"trial_*/{RESULT_FILE}"):
            result = read_result(path)
            if result.get("epochs") == self.epochs and len(result["rows"]) > epoch:
                others.append(result["rows"][epoch]["val_accuracy"])
        if len(others) < _LEAST_OTHERS:
            return
        accuracy, median = (logs or {})["val_accuracy"], statistics.median(others)
        if accuracy < median - _HOPELESS_BY:
            raise Hopeless(
                f"Validation accuracy {accuracy:.4f} after epoch {epoch + 1} of {self.epochs}; "
                f"the median of {len(others)} others is {median:.4f}."
            )


class BestModel(keras.callbacks.Callback):
    """Keeps the model of the epoch with the highest objective.

    The callback of Keras Tuner writes in place, and where the disk is full, what it leaves open
    makes the process crash at its end.

    Args:
        path: The file.

    Raises:
        WriteError: At the end of an epoch, if it can't be written.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.best = -math.inf

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        value = (logs or {})[NAME]
        if value > self.best:
            self.best = value
            with replacing(self.path) as temporary:
                self.model.save(temporary)


class TrialModel(keras_tuner.HyperModel):
    """The model of the command's trials: that of a run, from its configuration.

    Args:
        config: The configuration of the run; each trial's differs from it in what is searched, and
            in its epochs.
        data: The data to learn from.
        space: What is searched.
        terms: The terms of the objective.
        max_epochs: Number of epochs of a trial if the oracle does not set it.
        hopeless: Whether to stop hopeless trials.
        stop: The signals that stop the search.
    """

    def __init__(
        self,
        config: Config,
        data: ImageData,
        space: Space,
        terms: Terms,
        max_epochs: int,
        hopeless: bool,
        stop: StopSignals,
    ):
        super().__init__()
        self.config = config
        self.space = space
        self.terms = terms
        self.data = data
        self.max_epochs = max_epochs
        self.hopeless = hopeless
        self.stop = stop
        self.folder = Path()
        self.worker = ""

    def build(self, hp: keras_tuner.HyperParameters) -> SwitchedModel:
        """Return the model of a run with these hyperparameters.

        Args:
            hp: The hyperparameters of a trial.
        """
        # The learning rate falls over the epochs of this trial.
        config = with_options(self.config, {**self.space.choose(hp), "epochs": self.epochs(hp)})
        return switched_model(config, self.data, new_start(config, self.data))

    def epochs(self, hp: keras_tuner.HyperParameters) -> int:
        """Return the epochs that the oracle gives a trial."""
        return int(hp.values.get(_EPOCHS, self.max_epochs))

    def fit(
        self, hp: keras_tuner.HyperParameters, model: SwitchedModel, *args: Any, **kwargs: Any
    ) -> dict[str, float]:
        """Train a trial's model; keep it and its epochs in the trial's folder.

        Args:
            hp: The hyperparameters of the trial.
            model: The model that `build` returned.
            *args: Not used.
            **kwargs: More callbacks.

        Returns:
            The objective, validation accuracy and sparsity of the best epoch.
        """
        epochs = self.epochs(hp)
        record = EpochRows([], more=(NAME,))
        objective = LogObjective(self.terms)
        callbacks = [objective, record, *kwargs["callbacks"], BestModel(self.folder / MODEL_FILE)]
        if self.hopeless:
            callbacks.append(StopHopeless(self.folder.parent, epochs))
        callbacks += [StopOnDivergence(), StopOnSignal(self.stop, Workers())]
        start, stopped = time.perf_counter(), ""
        try:
            with _without_warnings():
                arguments = fit_arguments(self.config, self.data, epochs=epochs)
                model.fit(**arguments, callbacks=callbacks)
        except Hopeless as reason:
            stopped = "hopeless"
            logger.debug("Stopped: %s", reason)
        except (Diverged, FloatingPointError) as reason:
            stopped = "diverged"
            logger.debug("Stopped: %s", reason)
        # A diverged trial counts as if it had learned nothing, so that the oracle keeps away from
        # such values.
        nothing = {"val_accuracy": 0.0, "sparsity": 0.0}
        nothing[NAME] = objective.value(nothing)
        rows = [nothing] if stopped == "diverged" or not record.rows else record.rows
        best = max(rows, key=lambda row: row[NAME])
        self.keep(
            hp,
            stopped=stopped,
            epochs_run=len(record.rows),
            seconds=round(time.perf_counter() - start, 3),
            switcher_parameters=switcher_parameters(model),
            rows=record.rows,
        )
        return {name: float(best[name]) for name in (NAME, "val_accuracy", "sparsity")}

    def keep(self, hp: keras_tuner.HyperParameters, rows: list[Any], **facts: Any) -> None:
        """Write the result of a trial.

        Args:
            hp: The hyperparameters of the trial.
            rows: The rows of its epochs.
            **facts: What else is known about it.
        """
        result = {"worker": self.worker, "epochs": self.epochs(hp), **facts, "rows": rows}
        write_json(self.folder / RESULT_FILE, result)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress warnings that the model has not settled or has few turns, which a trial may."""
    logs = [logging.getLogger(module.__name__) for module in (model_module, schedule)]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def read_result(path: Path) -> dict[str, Any]:
    """Return what `TrialModel.fit` kept of a trial; nothing if it was not begun.

    Raises:
        RunError: If the file is damaged.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise damaged(path, "the result of a trial") from error
    if not isinstance(result, dict):
        raise damaged(path, "the result of a trial")
    return result


def ended_trial(trial: Trial, folder: Path, names: Iterable[str], max_epochs: int) -> EndedTrial:
    """Return what is known of a trial that has ended.

    Args:
        trial: The trial.
        folder: Where its files are.
        names: The names of the hyperparameters that are searched.
        max_epochs: Number of epochs of a trial if the oracle does not set it.
    """

    def metric(name: str) -> float | None:
        has_it = trial.status == TrialStatus.COMPLETED and trial.metrics.exists(name)
        value = trial.metrics.get_last_value(name) if has_it else None
        return None if value is None or not math.isfinite(value) else float(value)

    result = read_result(folder / RESULT_FILE)
    hyperparameters = trial.hyperparameters
    hyperparameters.ensure_active_values()
    active = {hp.name for hp in hyperparameters.space if hyperparameters.is_active(hp)}
    return EndedTrial(
        trial.trial_id,
        trial.status,
        result.get("stopped", ""),
        metric(NAME),
        metric("val_accuracy"),
        metric("sparsity"),
        int(hyperparameters.values.get(_EPOCHS, max_epochs)),
        result.get("epochs_run"),
        result.get("seconds"),
        result.get("switcher_parameters"),
        result.get("worker", ""),
        {n: hyperparameters.values.get(n) if n in active else None for n in names},
    )
