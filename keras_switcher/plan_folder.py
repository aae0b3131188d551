"""The folder of what a command can go on with: of a search, or of a comparison."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from keras_switcher.files import LOCK, RunError, locked, write_text

# What a kill leaves of a file that `replacing` was writing.
_HALF_WRITTEN = ".writing."


@contextlib.contextmanager
def plan_folder(folder: Path, file: str, kind: str) -> Iterator[bool]:
    """Make the folder, or see that the one there is of the same kind; keep other processes out.

    No other process gets into the folder as long as the block lasts.

    Args:
        folder: The folder.
        file: Name of the YAML file in it that says what it is the folder of.
        kind: What it is the folder of, in a word: "search".

    Yields:
        Whether the file is there: `read_plan` reads it.

    Raises:
        RunError: If something else is there, or another process is at work in it.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = {name for name in names if name != LOCK and _HALF_WRITTEN not in name}
    if (folder.exists() and not folder.is_dir()) or (others and file not in names):
        raise RunError(
            f"Expected --out to be a new or empty folder, or that of a {kind}. Received: {folder}, "
            "which holds something else"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Can't make the folder {folder}: {error.strerror}.") from error
    with locked(
        folder / LOCK,
        f"Another {kind} is under way in {folder}. Wait for it, or choose another --out.",
    ):
        yield (folder / file).exists()


def read_plan(path: Path) -> dict[str, Any]:
    """Read what a folder is the folder of.

    Args:
        path: The file.

    Raises:
        RunError: If it does not hold options by name.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise RunError(
            f"Expected {path} to hold lines of `name: value`. Received: a damaged file. Choose "
            "another --out."
        )
    return content


def write_plan(path: Path, content: Mapping[str, Any]) -> None:
    """Write what a folder is the folder of.

    Args:
        path: The file.
        content: What it is to hold.
    """
    write_text(path, yaml.safe_dump(dict(content), sort_keys=False))


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as they are when read back from YAML."""
    return {n: list(value) if isinstance(value, tuple) else value for n, value in options.items()}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names whose values differ, such as `epochs: 50 -> 30`."""
    return [
        f"{name}: {before.get(name, 'none')} -> {after.get(name, 'none')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]
