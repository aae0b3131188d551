"""The command `python -m keras_switcher.compare`."""

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from keras_switcher.checks import ConfigError
from keras_switcher.commands import run_command
from keras_switcher.compare.arguments import checked_plan
from keras_switcher.compare.plan import (
    DIVERGED,
    LOG_FILE,
    PLAN_FILE,
    RESULT_FILE,
    TRAINS_ANEW,
    Cell,
    Plan,
    Variant,
    cell_folder,
)
from keras_switcher.display import say
from keras_switcher.files import RunError
from keras_switcher.plan_folder import plan_folder, read_plan, write_plan
from keras_switcher.programs import same_command
from keras_switcher.report.wording import duration
from keras_switcher.runs import REPORT_FILE

if TYPE_CHECKING:
    from keras_switcher.compare.figures import Group

logger = logging.getLogger(__name__)


class NetworksFailed(RunError):
    """Some of the networks could not be trained."""

    exit_status = 1


def _check_data(plan: Plan, folder: Path, is_named: bool) -> tuple[str, Plan, list[str]]:
    """Check, before any process starts, that data, network and methods go together.

    Args:
        plan: The comparison.
        folder: Its folder.
        is_named: Whether the methods were named. Methods that were not named are left out if they
            can't be used on the network.

    Returns:
        The data's source, the comparison without the methods that are left out, and why they are.

    Raises:
        ConfigError: If they do not go together, or the data are not those of the existing results.
    """
    import tensorflow as tf

    from keras_switcher.compare.method import registry
    from keras_switcher.compare.results import finished
    from keras_switcher.fitting import load_data
    from keras_switcher.networks import new_start

    try:
        data = load_data(plan.config)
        # On a GPU, this would keep all of its memory from the processes that train.
        with tf.device("CPU:0"):
            start = new_start(plan.config, data)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    for result in finished(folder):
        if result["dataset_source"] != data.source:
            raise ConfigError(
                f"Expected the data of the results in {folder}: {result['dataset_source']}. "
                f"Received: {data.source}"
            )

    def check(variant: Variant) -> None:
        method = registry.get(variant.method)
        # A method that fails at some sparsity fails at the lowest or at the highest, too.
        ends = {min(plan.sparsities), max(plan.sparsities)} if method.is_sparse else {None}
        for sparsity in ends:
            method().check(Cell(variant, sparsity, plan.seeds[0]).config(plan.config), start)
        for needed in method.needs:
            check(Variant(needed))

    kept, reasons = [], []
    for variant in plan.variants:
        try:
            with tf.device("CPU:0"):
                check(variant)
            kept.append(variant)
        except (RunError, ValueError) as error:
            # The others are compared with the first.
            if is_named or variant == plan.variants[0]:
                raise ConfigError(f"Can't compare {variant}. {error}") from error
            reasons.append(f"Without {variant}. {error}")
    return data.source, dataclasses.replace(plan, variants=tuple(kept)), reasons


@contextlib.contextmanager
def open_folder(plan: Plan, folder: Path) -> Iterator[None]:
    """Make the folder of a comparison, or check that the one in it is the same; keep others out.

    Args:
        plan: The comparison.
        folder: The folder.

    Raises:
        RunError: If something else is there, or a comparison is under way.
    """
    with plan_folder(folder, PLAN_FILE, "comparison") as is_there:
        earlier = read_plan(folder / PLAN_FILE) if is_there else {}
        if is_there and (different := plan.changes(earlier)):
            raise RunError(
                f"The comparison in {folder} is another one: {'; '.join(different)}. Go on with "
                "its own options, or choose another --out."
            )
        write_plan(folder / PLAN_FILE, plan.grown(earlier))
        yield


def _compare(flags: Sequence[str], console: Console) -> int:
    options, plan = checked_plan(flags)
    from keras_switcher.compare.pool import Pool
    from keras_switcher.compare.results import read_result

    folder: Path = options.out
    # Ablations serve to choose options, for which the test examples must not be used.
    part = "test" if options.ablations is None else "validation"
    # Checked first: a comparison that can't be trained must leave no folder behind.
    source, plan, left_out = _check_data(plan, folder, options.methods_named)
    for reason in left_out:
        say(console, reason)
    with open_folder(plan, folder):
        cells = plan.cells()
        begun = time.monotonic()
        there = sum((cell_folder(folder, cell) / RESULT_FILE).exists() for cell in cells)
        say(
            console,
            f"{len(cells)} networks to train on {source}, {there} of them are there already; "
            f"{options.processes} at a time.",
        )
        ended: list[float] = []

        def show(cell: Cell, reason: str | None) -> None:
            ended.append(time.monotonic())
            number = there + len(ended)
            left = len(cells) - number
            seconds = left * (ended[-1] - begun) / len(ended)
            about = f", about {duration(seconds)} left" if left else ""
            if reason is None:
                result = read_result(cell_folder(folder, cell))
                said = (
                    f"{100 * result[f'{part}_accuracy']:.2f} % at "
                    f"{100 * result['fc_sparsity']:.2f} % in {duration(result['seconds'])}"
                )
                _write(plan, folder, None)
            else:
                log = cell_folder(folder, cell) / LOG_FILE
                said = f"failed: {reason}" + (f" ({log})" if log.exists() else "")
            say(console, f"{number}/{len(cells)} {cell.name}: {said}{about}")

        try:
            failed = Pool(plan, folder, source, options.processes, options.threads, show).run()
        finally:
            groups = _write(plan, folder, part)
        if groups:
            _warn_of_other_seeds(plan, groups)
            _show_table(groups, part, console)
            say(console, f"Report: {folder / REPORT_FILE}")
    if failed:
        # A diverged training continues from its last sound epoch, and would diverge again, and what
        # needs it would fail again.
        may_help = not all(
            reason.startswith(DIVERGED)
            or reason.endswith(TRAINS_ANEW)
            or any(needed in failed for needed in plan.needed(cell))
            for cell, reason in failed.items()
        )
        raise NetworksFailed(
            f"{len(failed)} of {len(cells)} networks failed, such as {next(iter(failed)).name}: "
            f"{next(iter(failed.values()))}"
            + (" The same command tries them again." if may_help else "")
        )
    return 0


def _write(plan: Plan, folder: Path, part: str | None) -> "list[Group]":
    """Write the results so far, and the pages if a part of the data is named; return them."""
    from keras_switcher.compare.figures import grouped
    from keras_switcher.compare.results import finished, ordered, write_results

    results = finished(folder)
    groups = ordered(grouped(results), plan)
    if groups:
        write_results(plan, folder, results, groups)
    if groups and part is not None:
        from keras_switcher.compare.picture import PICTURE_FILE, write_picture
        from keras_switcher.compare.report import write_report

        write_picture(groups, folder / PICTURE_FILE, part)
        write_report(plan, folder, groups, part)
    return groups


def _warn_of_other_seeds(plan: Plan, groups: "Sequence[Group]") -> None:
    seeds = {result["seed"] for group in groups for result in group.results}
    if others := sorted(seeds - set(plan.seeds)):
        logger.warning(
            "The folder has networks of other seeds, too (%s), and all figures are over those and "
            "the ones of this command. If they were used to choose something, take another --out.",
            ", ".join(map(str, others)),
        )


def _show_table(groups: "Sequence[Group]", part: str, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    from keras_switcher.compare.figures import off_target

    aimed = sorted({g.target_sparsity for g in groups if g.target_sparsity is not None})
    targets: list[float | None] = [*aimed] or [None]
    columns = ("–" if t is None else f"{100 * t:g} %" for t in targets)
    table = Table("method", *columns, title=f"{part.title()} accuracy, %")
    most = max((len(group.results) for group in groups), default=0)
    for method in dict.fromkeys(group.method for group in groups):
        own = {group.target_sparsity: group for group in groups if group.method == method}
        cells = [own.get(target) or own.get(None) for target in targets]
        means = (None if group is None else group.mean(f"{part}_accuracy") for group in cells)
        table.add_row(escape(next(iter(own.values())).title), *(_mean_text(m, most) for m in means))
    console.print(table)
    if missed := off_target(groups):
        say(console, missed)


def _mean_text(mean: Any, seeds: int) -> str:
    if mean is None:
        return "–"
    spread = "" if mean.deviation is None else f" ± {100 * mean.deviation:.2f}"
    few = f" ({mean.count} of {seeds})" if mean.count < seeds else ""
    return f"{100 * mean.mean:.2f}{spread}{few}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The flags; those of the process by default.

    Returns:
        The exit status: 0; 2 for a mistake in flags, files or data; 1 where a network failed; 130
        and 143 after Ctrl-C and SIGTERM.
    """
    flags = sys.argv[1:] if arguments is None else list(arguments)
    advice = f"Nothing is lost: go on with {same_command()}."
    return run_command(lambda console: _compare(flags, console), "--verbose" in flags, advice)
