"""How the user of this process would call a command."""

import shlex
import shutil
import sys
from pathlib import Path

_INSTALLED = "keras-switcher-train"


def train_command() -> str:
    """Return the start of a command line that trains: `.venv/bin/python train.py`, for example.

    In a checkout, that is its script, by the Python of this process; in an installed package, which
    has no script, the name under which it is installed.
    """
    script = Path(__file__).parents[1] / "train.py"
    if Path(sys.argv[0]).stem.startswith("keras-switcher") or not script.is_file():
        return _INSTALLED
    return f"{_python()} {_short(script)}"


def program_name() -> str:
    """Return the name of the program that trains: `train.py`, for example."""
    return _INSTALLED if train_command() == _INSTALLED else "train.py"


def module_command(module: str, installed: str) -> str:
    """Return the start of a command line of a module: `python -m export`, for example.

    Args:
        module: The name of the module.
        installed: The name under which it is installed: `keras-switcher-export`, for example.
    """
    is_installed = Path(sys.argv[0]).stem.startswith("keras-switcher")
    return installed if is_installed else f"python -m {module}"


def export_command(package: str) -> str:
    """Return the start of a command line that exports.

    Args:
        package: The name under which the package of the export is imported.
    """
    return module_command(package, "keras-switcher-export")


def resuming_command() -> str:
    """Return the start of a command line that goes on with a run of this process.

    In a script of the user's own, which may have registered what the run needs, that is the script.
    """
    package, own = Path(__file__).parent, getattr(sys.modules["__main__"], "__file__", None)
    if own is None or Path(own).suffix != ".py" or Path(own).name == "__main__.py":
        return train_command()
    script = Path(own).resolve()
    if script.is_relative_to(package) or script == package.parent / "train.py":
        return train_command()
    return f"{_python()} {_short(script)}"


def same_command() -> str:
    """Return how to say that the command of this process is to be given again."""
    without = ", without --overwrite" if "--overwrite" in sys.argv else ""
    return f"the same command{without}"


def _python() -> str:
    found = shutil.which("python")
    own = Path(sys.executable)
    is_found = found is not None and Path(found).parent.samefile(own.parent)
    return "python" if is_found else _short(own)


def _short(path: Path) -> str:
    """Return a path for a command line, relative if it is inside the current folder."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
