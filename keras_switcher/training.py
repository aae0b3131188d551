"""The command `train.py`: from flags to a trained, sparse and stripped model in a run's folder."""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from keras_switcher.files import RunError, WriteError, replacing, writing
from keras_switcher.flags import read_yaml, resolve
from keras_switcher.multiworker import joined_as_configured, lost_workers_named
from keras_switcher.plan_folder import differences
from keras_switcher.runs import (
    CHECKPOINTS,
    CONFIG_FILE,
    DENSE_FILE,
    HISTORY_FILE,
    MODEL_FILE,
    REPORT_FILE,
    STRIPPED_FILE,
    SUMMARY_FILE,
    RunFolder,
    new_run,
)
from keras_switcher.signals import Interrupted, StopSignals
from keras_switcher.workers import WorkerLost, Workers, how_to_resume

# TensorFlow takes seconds to load, so the functions import the modules that need it, after the
# checks.
if TYPE_CHECKING:
    from keras_switcher.data import ImageData
    from keras_switcher.networks import Start

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
        return _trained(config, console, stop, workers, folder, resumed)


def _trained(
    config: Config,
    console: Console,
    stop: StopSignals,
    workers: Workers,
    folder: RunFolder,
    resumed: bool,
) -> dict[str, Any]:
    show_config(console, config, folder.path)
    if workers.count > 1:
        show_workers(console, workers)

    with _resumable(folder, workers):
        load_tensorflow(config.run.verbose)
        import keras

        from keras_switcher.convert import strip
        from keras_switcher.fitting import (
            OutOfMemory,
            accuracy,
            check_replicas,
            execution,
            fit,
            load_data,
            origin_of,
            resources,
        )
        from keras_switcher.initial import validation_accuracy
        from keras_switcher.networks import (
            dense_model,
            new_start,
            switched_model,
            whole_dense,
            whole_switched,
        )
        from keras_switcher.report.page import FinishedRun, page
        from keras_switcher.summary import gzip_bytes, seconds, summary_of

        # Workers are silent while TensorFlow's servers meet, so wait here for those that are slow
        # to load TensorFlow.
        workers.gather("the start of TensorFlow", None)
        with lost_workers_named(workers), execution(config) as scope:
            try:
                with workers.chief_first("the data"):
                    data = load_data(config)
                with scope(), resources(folder):
                    check_replicas(config, data)
                    start = new_start(config, data)
                    origin = origin_of(config)
                    if config.network.init_from is not None:
                        before = validation_accuracy(start.network, data)
                    switched = switched_model(config, data, start)
            except (ValueError, OSError, OutOfMemory) as error:
                if not resumed and workers.is_chief:
                    folder.discard()
                if isinstance(error, OutOfMemory):
                    raise
                raise ConfigError(str(error)) from error
            _show_data(console, data)
            if config.network.init_from is not None:
                say(
                    console,
                    f"{config.network.init_from} before training: {before:.2%} of the validation "
                    "examples right.",
                )

            # From here on, an error of the operating system is a failure to write.
            with writing(folder.path), resources(folder):
                train_network = partial(
                    fit,
                    config=config,
                    origin=origin,
                    data=_examples(start, data, folder, console),
                    folder=folder,
                    stop=stop,
                    console=console,
                    workers=workers,
                )
                rows = train_network(switched, "switched", HISTORY_FILE)
                with scope():
                    switched = whole_switched(config, data, start, switched)
                if workers.is_chief:
                    with replacing(folder.path / MODEL_FILE) as path:
                        switched.save(path)
                    stripped = strip(switched)
                    with replacing(folder.path / STRIPPED_FILE) as path:
                        stripped.save(path)

                dense, dense_rows = None, []
                if config.run.dense_baseline:
                    # The switched network is a copy, so this one is as it was built or loaded.
                    keras.utils.set_random_seed(config.optimisation.seed)
                    with scope():
                        dense = dense_model(config, data, start)
                    dense_rows = train_network(dense, "dense", f"dense_{HISTORY_FILE}")
                    with scope():
                        dense = whole_dense(config, data, start)
                    if workers.is_chief:
                        with replacing(folder.path / DENSE_FILE) as path:
                            dense.save(path)

                # The test examples are not read before this point.
                test = (data.x_test, data.y_test, config.optimisation.batch_size)
                accuracies = {
                    "test_accuracy": accuracy(switched, *test),
                    "dense_test_accuracy": None if dense is None else accuracy(dense, *test),
                }

                def finish() -> bytes:
                    summary = {
                        **summary_of(config, data, switched, stripped, rows),
                        **accuracies,
                        "dense_gzip_bytes": None if dense is None else gzip_bytes(dense),
                        "dense_seconds": None if dense is None else seconds(dense_rows),
                    }
                    text = json.dumps(summary, indent=2) + "\n"
                    folder.write_text(SUMMARY_FILE, text)
                    run = FinishedRun(config, summary, rows, switched)
                    folder.write_text(REPORT_FILE, page(run))
                    folder.finish()
                    return text.encode()

                summary = json.loads(workers.from_chief("the summary", finish))
    if workers.is_chief:
        show_layers(console, summary)
        show_comparison(console, summary)
        report = folder.path / REPORT_FILE
        say(console, f"Report: {report}")
    return summary


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
                f"{folder.path} with {', '.join(results)}, which a run would replace"
            )
        if config.run.resume:
            logger.warning("There is no run to resume: starting one in %s.", folder.path)
        return folder, False
    if not config.run.resume:
        raise RunError(
            f"There is a run in {folder.path} already. Continue it with --resume, or choose "
            "another --run-dir."
        )
    values = read_yaml(folder.path / CONFIG_FILE)
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


def _examples(
    start: "Start", data: "ImageData", folder: RunFolder, console: Console
) -> "ImageData":
    """Return the inputs of the part that learns: the images, or the features of a frozen trunk."""
    if start.trunk is None:
        return data
    say(
        console,
        f"Computing the {start.trunk.size:,} features of each image below the dense layers, once.",
    )
    return start.trunk.features(data, folder.path / CHECKPOINTS)


def _show_data(console: Console, data: "ImageData") -> None:
    import tensorflow as tf

    devices = [device.device_type for device in tf.config.list_physical_devices()]
    say(
        console,
        f"Data: {data.source}: {len(data.x_train):,} training, {len(data.x_validation):,} "
        f"validation, {len(data.x_test):,} test examples. Devices: {', '.join(devices)}.",
    )


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
