"""Running Python files of a user's own, which register or define what options and models name."""

import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from keras_switcher.checks import ConfigError

# The files that have been run, by their real paths.
_done: set[str] = set()


def run_files(paths: Iterable[str], verbose: bool = False) -> None:
    """Run the files, each once in a process, as modules that other code can import by their names.

    Args:
        paths: The files. What lies beside them can be imported, also later, as for `python path`.
        verbose: Whether TensorFlow may write the lines that it writes on machines without a GPU.

    Raises:
        ConfigError: If there is no such file, or its code fails.
    """
    for path in paths:
        if not os.path.isfile(path):
            raise ConfigError(f"Expected --load to be Python files. Received: {path}")
        full = os.path.realpath(path)
        if full in _done or full in _files_of_modules():
            _done.add(full)
            continue
        from keras_switcher.commands import load_tensorflow

        load_tensorflow(verbose)
        if (neighbours := os.path.dirname(full)) not in sys.path:
            sys.path.append(neighbours)
        try:
            _run(full)
        except SystemExit as error:
            raise ConfigError(
                f"Can't run {path}, one of the files of --load: it ends the process. Put that "
                "under `if __name__ == '__main__':`"
            ) from error
        except Exception as error:
            raise ConfigError(
                f"Can't run {path}, one of the files of --load: {type(error).__name__}: {error}"
            ) from error
        _done.add(full)


def _run(path: str) -> None:
    """Run a file as the module of its name, or of another if that is one of Python's or taken."""
    name = Path(path).stem
    while name in sys.modules or _is_of_another_file(name, path):
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _is_of_another_file(name: str, path: str) -> bool:
    # A name with a dot would be looked for in a package.
    found = None if "." in name else importlib.util.find_spec(name)
    return found is not None and os.path.realpath(found.origin or "") != path


def _files_of_modules() -> set[str]:
    # Not by `getattr`, which would load modules that wait for their first use.
    files = (vars(module).get("__file__") for module in [*sys.modules.values()] if module)
    return {os.path.realpath(file) for file in files if isinstance(file, str)}
