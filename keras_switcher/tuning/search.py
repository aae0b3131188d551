"""A search from its start, or from where it was stopped, to the best configuration."""

import contextlib
import dataclasses
import json
import logging
import os
import shlex
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import keras_tuner
from keras_tuner.engine.trial import TrialStatus
from rich.console import Console

from keras_switcher.checks import ConfigError
from keras_switcher.config import to_yaml
from keras_switcher.data import ImageData
from keras_switcher.display import say
from keras_switcher.files import RunError, locked, write_json, write_text
from keras_switcher.fitting import (
    accuracy,
    data_digest,
    execution,
    load_data,
    origin_of,
)
from keras_switcher.programs import train_command
from keras_switcher.report.wording import counted
from keras_switcher.runs import REPORT_FILE
from keras_switcher.signals import Interrupted, StopSignals
from keras_switcher.tuning import oracles
from keras_switcher.tuning.folder import DATA_LOCK, TRIAL_FILE, check_data, damaged, has_ended
from keras_switcher.tuning.hypermodel import with_options
from keras_switcher.tuning.objective import connections
from keras_switcher.tuning.plan import BEST_CONFIG_FILE, BEST_FILE, TRIALS, TRIALS_FILE, Plan
from keras_switcher.tuning.results import EndedTrial, Results
from keras_switcher.tuning.spread import Place
from keras_switcher.tuning.stopping import NotTheTrial
from keras_switcher.tuning.trials import (
    MODEL_FILE,
    RESULT_FILE,
    TrialModel,
    ended_trial,
    read_result,
)
from keras_switcher.tuning.tuner import SwitcherTuner


class TooManyFailures(RunError):
    """Several trials failed, one after the other."""

    exit_status = 1


class Search:
    """A search, by a single process or as one of several.

    Args:
        plan: What is searched, and how.
        folder: Where everything is written.
        place: Which of several processes this is.
        console: Where progress and results are shown. Its file must be given, as standard output is
            redirected during the search to silence Keras Tuner.
        stop: The signals that stop it.
    """

    def __init__(self, plan: Plan, folder: Path, place: Place, console: Console, stop: StopSignals):
        self.plan = plan
        self.folder = folder
        self.place = place
        self.console = console
        self.stop = stop
        self._shown = 0
        self._lock = threading.Lock()

    def run(self) -> dict[str, Any] | None:
        """Search to the end.

        Returns:
            The content of `best.json`; `None` on a worker.

        Raises:
            RunError: If the folder is in use, or too many trials fail.
            Interrupted: If a signal stops the search; what is done is kept.
        """
        # TensorFlow warns that many functions are traced, but each trial has its own.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        with (
            execution(self.plan.config),
            # Keras Tuner prints, on a chief even what its developers used for debugging.
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            # One process prepares the data, which the others then find.
            with locked(self.folder / DATA_LOCK):
                data = load_data(self.plan.config)
                check_data(self.folder, {"data": data_digest(data), **origin_of(self.plan.config)})
            hypermodel = TrialModel(
                self.plan.config,
                data,
                self.plan.space,
                self.plan.terms,
                self.plan.max_epochs,
                self.plan.hopeless,
                self.stop,
            )
            oracle = oracles.make(
                self.plan.oracle,
                self.plan.trials,
                self.plan.max_epochs,
                self.plan.config.optimisation.seed,
            )
            oracle.verbose = 0
            oracle.keeps_workers = self.place.is_cluster
            oracle.ended = self._update
            self._make_reloadable()
            try:
                hypermodel.build(keras_tuner.HyperParameters())
            except ValueError as error:
                raise ConfigError(str(error)) from error
            tuner = SwitcherTuner(hypermodel, oracle, self.folder, self.place)
            if self.place.is_worker:
                try:
                    with self.stop.deferred():
                        tuner.search()
                except grpc.RpcError as error:
                    raise RunError(
                        f"The chief can't be reached any more: {error.details()}. Start both again "
                        "under the same names: nothing is lost."
                    ) from error
                return None
            self._shown = len(oracle.ended_trials)
            if self._shown:
                say(
                    self.console,
                    f"Going on after {self._shown} of {self.plan.trials} trials."
                    if self._shown < self.plan.trials
                    else f"All {self.plan.trials} trials are done: a search with more of them "
                    "goes on.",
                )
            return self._search(tuner, oracle, data)

    def _search(self, tuner: SwitcherTuner, oracle: Any, data: ImageData) -> dict[str, Any]:
        try:
            # A chief would wait for workers, only to tell them that nothing is left.
            if not self._is_over(oracle):
                self._check_best(oracle)
                # Left by a search that had fewer trials.
                (self.folder / BEST_FILE).unlink(missing_ok=True)
                # Signals are deferred so that they act between batches; a chief only waits.
                chief = self.place.is_chief
                with self.place.serving() if chief else self.stop.deferred():
                    tuner.search()
        except Interrupted:
            self._report(self._update(oracle))
            raise
        except RuntimeError as error:
            if "bind" not in str(error):
                raise
            raise RunError(
                f"The chief can't have its address: {error}. Give KERASTUNER_ORACLE_IP an address "
                "of this machine, and KERASTUNER_ORACLE_PORT a port that is free."
            ) from error
        if oracle.error is not None:
            raise NotTheTrial(f"The search can't go on: {oracle.error}") from oracle.error
        if oracle.gave_up:
            self._report(self._update(oracle))
            failed = [t for t in oracle.ended_trials if t.status == TrialStatus.FAILED]
            last = read_result(self._trial_folder(failed[-1].trial_id) / RESULT_FILE)
            raise TooManyFailures(
                f"{oracles.MOST_FAILURES} trials have failed, one after the other. The last one: "
                f"{last.get('error', 'no reason known')}"
            )
        with self.stop.deferred():
            return self._finish(tuner, oracle, data)

    def _check_best(self, oracle: Any) -> None:
        """Check that the model of the best trial is there, before more are trained."""
        best = self._results(oracle).best
        if best is not None and not (path := self._trial_folder(best.name) / MODEL_FILE).exists():
            raise damaged(path, "the model of the best trial")

    def _report(self, results: Results) -> None:
        # The modules that draw it take seconds to load, and workers do without them.
        from keras_switcher.tuning.report import page

        write_text(self.folder / REPORT_FILE, page(results))

    def _is_over(self, oracle: Any) -> bool:
        return len(oracle.ended_trials) >= self.plan.trials and not oracle.ongoing_trials

    def _make_reloadable(self) -> None:
        """Make sure that the tuner of this process reads the state that any process has left.

        Keras Tuner looks for a file named after the process. A worker's own file is of no use, and
        a kill may have truncated it.

        Raises:
            RunError: If trials have left no state.
        """
        trials = self.folder / TRIALS
        own, state = trials / f"{self.place.name}.json", trials / "oracle.json"
        if not self.place.is_worker and state.exists():
            write_text(own, "{}")
            return
        own.unlink(missing_ok=True)
        # A kill may have left the first trial without a state, but none that has ended.
        if not state.exists() and any(map(has_ended, trials.glob(f"trial_*/{TRIAL_FILE}"))):
            raise damaged(state, "the state of its trials")

    def _results(self, oracle: Any) -> Results:
        plan = self.plan
        trials = [
            ended_trial(
                trial, self._trial_folder(trial.trial_id), plan.space.searched, plan.max_epochs
            )
            for trial in oracle.ended_trials
        ]
        return Results(plan, trials)

    def _trial_folder(self, number: str) -> Path:
        return self.folder / TRIALS / f"trial_{number}"

    def _update(self, oracle: Any) -> Results:
        """Write the results of the trials so far, show the new ones, and return all."""
        with self._lock:
            results = self._results(oracle)
            best = results.best
            write_text(self.folder / TRIALS_FILE, results.to_csv())
            if best is not None:
                self._write_config(oracle, best)
            for trial in results.trials[self._shown :]:
                self._show(trial, best, len(results.trials))
            self._shown = len(results.trials)
            for trial in results.trials:
                if trial is not best:
                    # The models of all trials would fill a disk.
                    (self._trial_folder(trial.name) / MODEL_FILE).unlink(missing_ok=True)
            return results

    def _write_config(self, oracle: Any, best: EndedTrial) -> None:
        chosen = self.plan.space.choose(oracle.trials[best.name].hyperparameters.copy())
        write_text(self.folder / BEST_CONFIG_FILE, to_yaml(with_options(self.plan.config, chosen)))

    def _show(self, trial: EndedTrial, best: EndedTrial | None, number: int) -> None:
        width = len(str(self.plan.trials))
        parts = [f"{number:>{width}}/{self.plan.trials}", f"trial {trial.name}"]
        if trial.objective is None:
            parts.append("failed")
        else:
            parts += [
                counted(trial.epochs, "epoch"),
                f"validation {100 * (trial.val_accuracy or 0):.2f} %",
                f"sparsity {100 * (trial.sparsity or 0):.2f} %",
                f"objective {trial.objective:.4f}",
                f"{trial.seconds or 0:.1f} s",
            ]
        if trial.stopped:
            parts.append(trial.stopped)
        if best is not None:
            parts.append(f"best {best.objective:.4f} (trial {best.name})")
        say(self.console, "  ".join(parts))

    def _finish(self, tuner: SwitcherTuner, oracle: Any, data: ImageData) -> dict[str, Any]:
        """Evaluate the best trial on the test examples, once, and write the results."""
        results = self._update(oracle)
        if self._shown < self.plan.trials:
            say(
                self.console,
                f"Nothing new is left to try after {self._shown} of {self.plan.trials} trials: the "
                "search space has no more.",
            )
        best = results.best
        if best is None:
            self._report(results)
            raise TooManyFailures(_why_none(results))
        if best.epochs < self.plan.max_epochs:
            say(
                self.console,
                f"No trial has had all {self.plan.max_epochs} epochs, so the best one is that of a "
                f"training of {counted(best.epochs, 'epoch')}. Take more --trials, or, where none "
                "is left to try, --oracle random in another --out.",
            )
        trial = oracle.trials[best.name]
        written = self.folder / BEST_FILE
        facts = _facts(written)
        if facts.get("trial") != best.name:
            self._report(results)
            model = tuner.load_model(trial)
            batch_size = self.plan.config.optimisation.batch_size
            facts = {
                "trial": best.name,
                "objective": best.objective,
                "val_accuracy": best.val_accuracy,
                "sparsity": best.sparsity,
                "test_accuracy": accuracy(model, data.x_test, data.y_test, batch_size),
                "connections": connections(model),
                "switcher_parameters": best.switcher_parameters,
                "epochs": best.epochs,
                "values": best.active_values,
            }
            write_json(written, facts)
        self._report(dataclasses.replace(results, test_accuracy=facts["test_accuracy"]))
        return facts


def _facts(path: Path) -> dict[str, Any]:
    """Return the content of `best.json`; nothing if it is missing or damaged: it is made again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _why_none(results: Results) -> str:
    """Return why there is no best trial."""
    if not results.trials:
        return (
            "No trial was begun: the search space has too little to choose from for Hyperband. "
            "Take --oracle random in another --out."
        )
    reasons = Counter(trial.stopped or "failed" for trial in results.trials)
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    advice = " Take a lower --learning-rate." if "diverged" in reasons else ""
    return f"No trial has come to its end, so there is no best one: {listed}.{advice}"


def summary(facts: dict[str, Any], folder: Path) -> str:
    """Return the text to show at the end of a search.

    Args:
        facts: What `Search.run` returned.
        folder: The folder of the search.
    """
    values = ", ".join(f"{name}={_plain(value)}" for name, value in facts["values"].items())
    return (
        f"Best: trial {facts['trial']}, {counted(facts['epochs'], 'epoch')}, validation "
        f"{100 * facts['val_accuracy']:.2f} %, test {100 * facts['test_accuracy']:.2f} %, sparsity "
        f"{100 * facts['sparsity']:.2f} %.\n{values}\nTrain with it: {train_command()} --config "
        f"{shlex.quote(str(folder / BEST_CONFIG_FILE))}\nReport: {folder / REPORT_FILE}"
    )


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
