"""Which versions, on which processor, trained a network of a comparison."""

import contextlib
import json
import platform
import re
import subprocess
from pathlib import Path

from keras_switcher.files import write_json
from keras_switcher.runs import CHECKPOINTS

_VERSIONS_FILE = "versions.json"


def versions_of(folder: Path) -> list[str]:
    """Return the versions that train the cell in a folder: several, if others continue it.

    They are read when its process starts, whatever happens to the checkout while it trains.
    """
    path = folder / _VERSIONS_FILE
    before: list[str] = []
    if any((folder / CHECKPOINTS).glob("*")):
        before = json.loads(path.read_text(encoding="utf-8"))
    versions = list(dict.fromkeys([*before, version()]))
    write_json(path, versions)
    return versions


def version() -> str:
    """Return the versions of this package (in a checkout with its commit), Keras, TensorFlow."""
    import keras
    import tensorflow as tf

    import keras_switcher

    ours = f"keras_switcher {keras_switcher.__version__}"
    if found := commit(Path(keras_switcher.__file__).parents[1]):
        ours += f" ({found})"
    return f"{ours}, Keras {keras.__version__}, TensorFlow {tf.__version__}"


def commit(folder: Path) -> str:
    """Return a checkout's commit, with `-dirty` if it has changes; nothing for another folder."""
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    with contextlib.suppress(OSError):
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"^model name\s*: (.+)$", facts, re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()
