"""The page of a run as a folder of static files, for any web host."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from keras_switcher.files import writing

from .errors import ExportError
from .folder import write
from .site import ENCODINGS, FACTS_FILE, START, Asset


def write_bundle(assets: Mapping[str, Asset], out: Path) -> None:
    """Write a site into a folder, with its compressed files beside the others.

    An earlier bundle there is replaced once the new one is complete.

    Args:
        assets: The files, by their paths below the folder.
        out: The folder.

    Raises:
        ExportError: If it holds something other than a bundle, which would be lost.
        WriteError: If it can't be written.
    """
    if out.exists() and not out.is_dir():
        raise ExportError(f"Expected --bundle to be a folder. Received: {out}, which is a file")
    if out.is_dir() and (others := _others(out, assets)):
        raise ExportError(
            "Expected --bundle to be a new folder, an empty one or an earlier bundle. Received: "
            f"{out}, which holds other files: {', '.join(others)}"
        )
    # Of a link, such as web hosts have to the version that they show, the folder is replaced.
    out = Path(os.path.realpath(out))
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.writing-", dir=out.parent))
    try:
        for name, asset in assets.items():
            path = made / name
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            write(path, asset.read())
            for encoding in asset.encoded:
                write(path.with_name(path.name + ENCODINGS[encoding]), asset.read(encoding))
        with writing(out):
            # Nobody else may read a folder that mkdtemp makes, but a web host has to.
            made.chmod(0o755)
            _swap(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _swap(made: Path, out: Path) -> None:
    """Put a folder in the place of another, which stays there if that fails."""
    before = made.with_name(f"{made.name}-before")
    if out.exists():
        os.rename(out, before)
    try:
        os.rename(made, out)
    except OSError:
        if before.exists():
            os.rename(before, out)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _others(folder: Path, assets: Mapping[str, Asset]) -> list[str]:
    """Return what is in a folder and of no bundle, as a `.git` or a host's own files may be."""
    there = {path.name for path in folder.iterdir()}
    if not {START, FACTS_FILE} <= there:
        # Not a bundle at all, even if it has files of the same names.
        return sorted(there)
    top = {name.partition("/")[0] for name in assets}
    found = []
    for path in sorted(folder.iterdir()):
        plain = path.with_suffix("") if path.suffix in ENCODINGS.values() else path
        # An earlier bundle may have had other models.
        if plain.name not in top and not plain.match("model_*.tflite"):
            found.append(path.name)
    return found
