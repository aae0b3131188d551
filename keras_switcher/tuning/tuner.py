"""`SwitcherTuner`: the trials of a search by the command, one after the other in a process."""

import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.trial import Trial
from keras_tuner.errors import FatalError

from keras_switcher.files import RunError
from keras_switcher.fitting import tensorboard_in
from keras_switcher.tuning.folder import damaged
from keras_switcher.tuning.memory import forget_gradients
from keras_switcher.tuning.plan import TRIALS
from keras_switcher.tuning.spread import Place
from keras_switcher.tuning.stopping import NotTheTrial, PatientOracle
from keras_switcher.tuning.trials import MODEL_FILE, RESULT_FILE, TrialModel


class SwitcherTuner(keras_tuner.Tuner):
    """Runs the trials that an oracle gives out.

    Args:
        hypermodel: The model of the trials.
        oracle: The oracle that gives them out, or a stand-in for the one of the chief.
        folder: The folder of the search.
        place: Which of the search's processes this is.
    """

    oracle: Any

    def __init__(
        self, hypermodel: TrialModel, oracle: keras_tuner.Oracle, folder: Path, place: Place
    ):
        super().__init__(
            oracle=oracle, hypermodel=hypermodel, directory=str(folder), project_name=TRIALS
        )
        self.is_worker = place.is_worker
        if self.is_worker:
            self.oracle = PatientOracle(self.oracle, hypermodel.stop)
        hypermodel.worker = self.tuner_id
        self.board = folder / "tensorboard"

    def pre_create_trial(self) -> None:
        """Wait a little, as an oracle that has nothing to give is asked again at once."""
        self.hypermodel.stop.check()
        if self.is_worker:
            time.sleep(0.2)

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> Any:
        """Train a trial, with its curves and hyperparameters in TensorBoard.

        Raises:
            NotTheTrial: If it can't be kept, or what other trials have kept can't be read.
        """
        folder = self.hypermodel.folder = Path(self.get_trial_dir(trial.trial_id))
        # Left by a run of the trial that was killed.
        for name in (RESULT_FILE, MODEL_FILE):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.board / trial.trial_id, ignore_errors=True)
        callbacks = [keras.callbacks.TensorBoard(str(self.board), write_graph=False)]
        try:
            try:
                with tensorboard_in(self.board):
                    self._configure_tensorboard_dir(callbacks, trial)
                    return self._build_and_fit_model(trial, callbacks=callbacks)
            except (FatalError, RunError):
                raise
            except Exception as error:
                # The oracle of a chief does not receive the message.
                reason = f"{type(error).__name__}: {error}"
                self.hypermodel.keep(trial.hyperparameters, [], epochs_run=0, error=reason)
                raise
        except RunError as error:
            raise NotTheTrial(str(error)) from error
        finally:
            forget_gradients()

    def load_model(self, trial: Trial) -> keras.Model:
        """Load the model of a trial's best epoch.

        Raises:
            RunError: If its file is missing or damaged.
        """
        path = Path(self.get_trial_dir(trial.trial_id)) / MODEL_FILE
        try:
            return keras.saving.load_model(path)
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise damaged(path, "the model of the best trial") from error
