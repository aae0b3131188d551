"""The folder of a search: new, or that of the same search."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from keras_switcher.checks import ConfigError
from keras_switcher.files import LOCK, RunError
from keras_switcher.plan_folder import plan_folder, read_plan, write_plan
from keras_switcher.tuning.plan import BEST_FILE, PLAN_FILE, TRIALS, Plan
from keras_switcher.tuning.spread import LOGS

# Seconds that a worker waits for the chief to make the folder.
_TO_COME = 600.0
_REMOVED = ".removed"
DATA_FILE = "data.yaml"
DATA_LOCK = ".data-lock"
# As Keras Tuner names it.
TRIAL_FILE = "trial.json"


@contextlib.contextmanager
def open_folder(plan: Plan, folder: Path, overwrite: bool, *, alone: bool = True) -> Iterator[bool]:
    """Make the folder of a search, or check that the search in it is the same; keep others out.

    Args:
        plan: The search.
        folder: The folder.
        overwrite: Whether to remove another search that is there.
        alone: Whether no other process may be at work on the same search.

    Yields:
        Whether the search is new.

    Raises:
        RunError: If something else is there, or a search is under way.
        ConfigError: If more trials have ended than there are to be.
    """
    written = folder / PLAN_FILE
    with plan_folder(folder, PLAN_FILE, "search") as is_there:
        shutil.rmtree(folder / _REMOVED, ignore_errors=True)
        is_new = overwrite or not is_there
        if overwrite and is_there:
            _remove(folder)
        elif is_there:
            _check_same(plan, folder)
        write_plan(written, plan.content())
        try:
            yield is_new
        except ConfigError:
            if alone and is_new:
                forget_mistaken(folder)
            raise


def forget_mistaken(folder: Path) -> None:
    """Remove a search that could not begin, if it has no trials: once mended, it is another one.

    Args:
        folder: The folder of the search, which is new.
    """
    if not list((folder / TRIALS).glob("trial_*")):
        for path in folder.iterdir():
            if path.name in (TRIALS, LOGS):
                shutil.rmtree(path)
            elif path.name in (PLAN_FILE, DATA_FILE, DATA_LOCK):
                path.unlink()


def _remove(folder: Path) -> None:
    """Remove a search, so that a kill leaves all of its trials or none."""
    (folder / BEST_FILE).unlink(missing_ok=True)
    if (folder / TRIALS).exists():
        os.replace(folder / TRIALS, folder / _REMOVED)
    # The plan goes last: as long as it is there, the folder is known to be one of a search.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == PLAN_FILE):
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def wait_for_folder(plan: Plan, folder: Path) -> None:
    """Wait until the chief has made the folder, and check that its search is the same.

    Args:
        plan: The search.
        folder: The folder.

    Raises:
        RunError: If the chief's search is another one, or no chief makes one.
    """
    deadline = time.monotonic() + _TO_COME
    while not (folder / PLAN_FILE).exists():
        if time.monotonic() > deadline:
            raise RunError(
                f"Expected the chief to make the folder {folder} within {_TO_COME:.0f} s: all "
                "processes of a search must see the same folder. Received: no folder"
            )
        time.sleep(0.5)
    _check_same(plan, folder)


def check_data(folder: Path, facts: Mapping[str, str]) -> None:
    """Check that a search's data is that of its earlier trials, or keep what tells it from others.

    Args:
        folder: The folder of the search, in which no other process does the same.
        facts: What tells the data, and the file that networks start from, from others.

    Raises:
        RunError: If it is not.
    """
    path = folder / DATA_FILE
    if not path.exists():
        write_plan(path, facts)
        return
    earlier = read_plan(path)
    for name, value in facts.items():
        if earlier.get(name) != value:
            raise RunError(
                f"Expected the {name} of the search's other trials: {earlier.get(name, 'none')}. "
                f"Received: {value}. Is everything where it was, and --data-dir or TFDS_DATA_DIR "
                "the same? Otherwise choose another --out."
            )


def damaged(path: Path, content: str) -> RunError:
    """Return the error for a file of a search that can't be read.

    Args:
        path: The file.
        content: What it should hold.
    """
    return RunError(
        f"Expected {path} to hold {content}. Received: {'a damaged' if path.exists() else 'no'} "
        "file. Start again with --overwrite, or choose another --out."
    )


def has_ended(trial: Path) -> bool:
    """Return whether a trial has ended.

    Args:
        trial: Its file.

    Raises:
        RunError: If the file is damaged.
    """
    try:
        status = json.loads(trial.read_text(encoding="utf-8"))["status"]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(trial, "a trial of Keras Tuner") from error
    return status in ("COMPLETED", "FAILED")


def _check_same(plan: Plan, folder: Path) -> None:
    ended = sum(has_ended(path) for path in (folder / TRIALS).glob(f"trial_*/{TRIAL_FILE}"))
    if ended > plan.trials:
        raise ConfigError(
            f"Expected --trials to be at least {ended}, as many as have ended in {folder}. "
            f"Received: {plan.trials}"
        )
    if different := plan.changes(read_plan(folder / PLAN_FILE)):
        raise RunError(
            f"The search in {folder} is another one: {'; '.join(different)}. Go on with its own "
            "options, choose another --out, or start again with --overwrite."
        )
