"""The command `train.py`: from flags to a trained, sparse and stripped model in a run's folder."""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from keras_switcher.checks import ConfigError
from keras_switcher.commands import load_tensorflow, run_command
from keras_switcher.config import Config, from_values, influences, to_yaml, validate
from keras_switcher.display import (
    say,
    show_comparison,
    show_config,
    show_layers,
    show_workers,
)
from keras_switcher.files import RunError, WriteError
from keras_switcher.flags import read_yaml, resolve
from keras_switcher.multiworker import joined_as_configured
from keras_switcher.plan_folder import differences
from keras_switcher.runs import (
    CONFIG_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    RunFolder,
    new_run,
)
from keras_switcher.signals import Interrupted, StopSignals
from keras_switcher.workers import WorkerLost, Workers, how_to_resume

logger = logging.getLogger(__name__)


def train(
    config: Config, console: Console | None = None, stop: StopSignals | None = None
) -> dict[str, Any]:
    """Train a sparse network and its dense counterpart, and write the run's folder.

    Args:
        config: The configuration.
        console: Where to show progress and results; nowhere by default.
        stop: The signals that stop the training; none by default.

    Returns:
        The content of `summary.json`.

    Raises:
        ConfigError: If a value is wrong, or the data or the model can't be set up as configured.
        RunError: If the folder can't be used, or training diverges.
        Interrupted: If a signal stops it.
    """
    console = Console(quiet=True) if console is None else console
    stop = StopSignals() if stop is None else stop
    with joined_as_configured(validate(config)) as workers:
        return _train(config, console, stop, workers)


def _train(config: Config, console: Console, stop: StopSignals, workers: Workers) -> dict[str, Any]:
    with ExitStack() as held:
        folder, resumed, summary = _start(config, workers, held)
        if summary is not None:
            say(console, f"The run in {folder.path} is finished: nothing to resume.")
            return summary
        show_config(console, config, folder.path)
        if workers.count > 1:
            show_workers(console, workers)
        with _resumable(folder, workers):
            # TensorFlow takes seconds to load, so it comes after the checks.
            load_tensorflow(config.run.verbose)
            from keras_switcher.learning import learn

            learned = learn(config, console, stop, workers, folder, resumed)
        if workers.is_chief:
            show_layers(console, learned)
            show_comparison(console, learned)
            say(console, f"Report: {folder.path / REPORT_FILE}")
        return learned


def _start(
    config: Config, workers: Workers, held: ExitStack
) -> tuple[RunFolder, bool, dict[str, Any] | None]:
    """Return the run's folder, whether a run there is resumed, and its summary if it is finished.

    The chief opens the folder and locks it against other processes; the other workers may not even
    see it.
    """

    def start() -> bytes:
        folder, resumed = _open_folder(config)
        summary = None
        if not (resumed and folder.is_finished):
            held.enter_context(folder.under_way())
        # Another process that was working on the run may have finished it in the meantime.
        if resumed and folder.is_finished:
            folder.tidy()
            path = folder.path / SUMMARY_FILE
            try:
                summary = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise RunError(f"Expected {path} to be JSON. Received: {error}") from error
        else:
            # Written at once, so that the run can be resumed with the same configuration whenever
            # it is stopped.
            folder.start(to_yaml(config))
        return json.dumps([str(folder.path), resumed, summary]).encode()

    path, resumed, summary = json.loads(workers.from_chief("the run's folder", start))
    return RunFolder(Path(path)), resumed, summary


def _open_folder(config: Config) -> tuple[RunFolder, bool]:
    """Return the run's folder, and whether a run that is already there is resumed."""
    given = config.run.run_dir
    path = Path(given) if given else new_run(config.network.model, config.data.dataset)
    folder = RunFolder(path)
    if not folder.has_run:
        if results := folder.results:
            raise RunError(
                "Expected --run-dir to be a new folder, or that of a run. Received: "
                f"{folder.path} with {', '.join(results)}, which a run would replace, but without "
                f"{CONFIG_FILE}"
            )
        if config.run.resume:
            logger.warning("There is no run to resume: starting one in %s.", folder.path)
        return folder, False
    if not config.run.resume:
        raise RunError(
            f"There is a run in {folder.path} already. Continue it with --resume, or choose "
            "another --run-dir."
        )
    values = read_yaml(folder.path / CONFIG_FILE, leave_out=("load",))
    if not values:
        raise RunError(
            f"Expected {folder.path / CONFIG_FILE} to have the options of the run there. Received: "
            "an empty file, so it is damaged. Choose another --run-dir."
        )
    earlier = from_values(values)
    if different := differences(influences(earlier), influences(config)):
        raise ConfigError(
            f"The run in {folder.path} has another configuration: {'; '.join(different)}. Resume "
            "it without these options, or choose another --run-dir."
        )
    return folder, True


@contextmanager
def _resumable(folder: RunFolder, workers: Workers) -> Iterator[None]:
    """Add to an error a note on how to resume the run."""
    workers.advice = how_to_resume(folder.path, workers)
    try:
        yield
    except (Interrupted, WriteError, WorkerLost) as error:
        # The other workers may not see the folder.
        if folder.has_run or not workers.is_chief:
            error.add_note(workers.advice)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The flags; those of the process by default.

    Returns:
        The exit status: 0; 2 for a mistake in flags, files or data; 1 for a run that failed;
        130 and 143 after Ctrl-C and SIGTERM.
    """
    flags = sys.argv[1:] if arguments is None else arguments
    stop = StopSignals()

    def command(console: Console) -> int:
        with stop.handled():
            train(resolve(flags), console, stop)
        return 0

    # Read before the configuration, whose errors it is about.
    return run_command(command, "--verbose" in flags)
