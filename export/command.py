"""The command `python -m export`, or `keras-switcher-export` in an installed package."""

import sys
from collections.abc import Sequence

import tyro

from keras_switcher.checks import ConfigError
from keras_switcher.commands import Output, load_tensorflow, shown_messages
from keras_switcher.display import show_error
from keras_switcher.files import RunError
from keras_switcher.programs import export_command
from keras_switcher.signals import Interrupted, StopSignals

from .errors import ExportError
from .options import BenchmarkOptions, ExportOptions, ServeOptions

_BENCHMARK, _SERVE = "benchmark", "serve"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The flags; those of the process by default.

    Returns:
        The exit status: 0; 1 for an export that failed; 2 for a mistake in the flags; 130 after
        Ctrl-C, except for a server, which ends with 0 then; 143 after SIGTERM.
    """
    flags = list(sys.argv[1:] if arguments is None else arguments)
    verbose = "--verbose" in flags
    errors = Output(stderr=True)
    stop = StopSignals()
    with shown_messages(errors, verbose):
        try:
            with stop.handled():
                if flags[:1] == [_BENCHMARK]:
                    _benchmark(flags[1:])
                elif flags[:1] == [_SERVE]:
                    _serve(flags[1:])
                else:
                    _export(flags)
        except (Interrupted, ExportError, RunError, ConfigError) as error:
            if verbose:
                errors.print_exception()
            show_error(errors, str(error))
            return error.exit_status
        except OSError as error:
            if verbose:
                errors.print_exception()
            show_error(errors, f"{error}. What was finished before is as it was.")
            return 1
    return 0


def _export(flags: Sequence[str]) -> None:
    program = export_command(__package__)
    options = tyro.cli(
        ExportOptions,
        args=flags,
        prog=program,
        description="Write a trained model as TFLite files without its switched-off connections, "
        f"and prove each. `{program} {_SERVE} RUN` runs them in a browser; `{program} "
        f"{_BENCHMARK} FILE...` measures any TFLite files.",
    )
    load_tensorflow(options.verbose)
    from .exporting import export

    export(options, Output())


def _benchmark(flags: Sequence[str]) -> None:
    options = tyro.cli(
        BenchmarkOptions,
        args=flags,
        prog=f"{export_command(__package__)} {_BENCHMARK}",
        description="Measure TFLite files, from anywhere: bytes, latency, memory.",
    )
    from .benchmark import benchmark

    benchmark(options, Output())


def _serve(flags: Sequence[str]) -> None:
    options = tyro.cli(
        ServeOptions,
        args=flags,
        prog=f"{export_command(__package__)} {_SERVE}",
        description="Run the exported files of a run in a browser, on a phone or on a desktop.",
    )
    from .serve import serve

    serve(options, Output())
