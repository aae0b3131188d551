"""The folder of a search: new, or that of the same search."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from keras_switcher.runs import RunError, locked, replacing
from keras_switcher.tuning.plan import PLAN_FILE, Plan

# Seconds that a worker waits for the chief to make the folder.
_TO_COME = 600.0
_LOCK = ".lock"


@contextlib.contextmanager
def open_folder(plan: Plan, folder: Path, overwrite: bool) -> Iterator[None]:
    """Make the folder of a search, or see that the search in it is the same; keep others out.

    No other process gets into the folder as long as the block lasts.

    Args:
        plan: The search.
        folder: The folder.
        overwrite: Whether to remove another search that is there.

    Raises:
        RunError: If something else is there, or a search is under way.
    """
    written = folder / PLAN_FILE
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if (folder.exists() and not folder.is_dir()) or (names - {_LOCK} and PLAN_FILE not in names):
        raise RunError(
            "Expected --out to be a new or empty folder, or that of a search. Received: "
            f"{folder}, which holds something else"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Can't make the folder {folder}: {error.strerror}.") from error
    with locked(
        folder / _LOCK,
        f"Another search is under way in {folder}. Wait for it, or choose another --out.",
    ):
        if overwrite and written.exists():
            # The plan last: as long as it is there, the folder is known to be one of a search.
            for path in sorted(folder.iterdir(), key=lambda path: path == written):
                if path.name != _LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif written.exists():
            _check_same(plan, folder)
        with replacing(written) as temporary:
            text = yaml.safe_dump(plan.to_yaml(), sort_keys=False)
            temporary.write_text(text, encoding="utf-8")
        yield


def wait_for_folder(plan: Plan, folder: Path) -> None:
    """Wait until the chief has made the folder, and see that its search is the same.

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


def _check_same(plan: Plan, folder: Path) -> None:
    earlier = yaml.safe_load((folder / PLAN_FILE).read_text(encoding="utf-8"))
    if different := plan.changes(earlier):
        raise RunError(
            f"The search in {folder} is another one: {'; '.join(different)}. Go on with its own "
            "options, choose another --out, or start again with --overwrite."
        )
