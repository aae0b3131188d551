"""The report of a search: one HTML file with its best trial, its pictures and all its trials."""

import importlib.resources
from collections.abc import Sequence
from html import escape

from keras_switcher.report.frame import cards, document, section, table
from keras_switcher.report.wording import counted, difference, duration, percent, percent_or_dash
from keras_switcher.tuning.figures import (
    importance_figure,
    parallel_figure,
    progress_figure,
)
from keras_switcher.tuning.importance import importances
from keras_switcher.tuning.plan import BEST_CONFIG_FILE
from keras_switcher.tuning.results import EndedTrial, Results
from keras_switcher.tuning.space import Range, Value

# A longer table of trials is folded.
_SHORT = 20


def page(search: Results) -> str:
    """Return the report of a search as a whole HTML document, which loads nothing else.

    Args:
        search: What the search has come to; the same results give the same report.
    """
    config, best = search.plan.config, search.best
    matters = importance_figure(importances(search.trials, search.space))
    return document(
        heading=f"{config.network.name} on {config.data.dataset}: search",
        kind="search report",
        lead=_lead(search),
        notice=_notice(search),
        main=f"""{_headline(search, best)}
{section("best", "The best trial", _best(search, best))}
{section("progress", "Objective over the trials", progress_figure(search.trials))}
<div class="pair even">
{section("parameters", "Hyperparameters of the trials", parallel_figure(search, best))}
{section("importance", "What matters", matters)}
</div>
{section("trials", "All trials", _all_trials(search))}""",
        style=importlib.resources.files(__package__).joinpath("report.css").read_text("utf-8"),
    )


def _lead(search: Results) -> str:
    plan = search.plan
    target = plan.config.switching.target_sparsity
    return escape(
        f"{'No target of the sparsity' if target is None else f'Target sparsity {percent(target)}'}"
        f". Oracle {plan.oracle}, {counted(len(search.space), 'hyperparameter')}, at most "
        f"{counted(plan.max_epochs, 'epoch')} a trial, seed {plan.config.optimisation.seed}."
    )


def _notice(search: Results) -> str:
    if search.test_accuracy is not None:
        return ""
    return (
        '<p class="notice" role="note"><strong>The search is not finished.</strong> '
        f"{_ended(search)}; the best trial is the best so far.</p>\n"
    )


def _ended(search: Results) -> str:
    ended = len(search.trials)
    verb = "has" if ended == 1 else "have"
    return escape(f"{counted(ended, 'trial')} of {search.plan.trials} {verb} ended")


def _headline(search: Results, best: EndedTrial | None) -> str:
    trials, test = search.trials, search.test_accuracy
    target = search.plan.config.switching.target_sparsity
    accuracy = None if best is None else best.val_accuracy
    sparsity = None if best is None else best.sparsity
    aside = "no trial has come to its end" if best is None else f"of trial {best.name}"
    failed = sum(trial.objective is None for trial in trials)
    stopped = sum(bool(trial.stopped) for trial in trials)
    workers = len({trial.worker for trial in trials})
    return cards(
        [
            ("Validation accuracy", percent_or_dash(accuracy), aside)
            if test is None
            else (
                "Test accuracy",
                percent(test),
                f"read once, after the search; validation accuracy {percent_or_dash(accuracy)}",
            ),
            (
                "FC sparsity",
                percent_or_dash(sparsity),
                "of the switched connections; no target was set"
                if target is None
                else f"the target is {percent(target)}"
                if sparsity is None
                else f"{difference(sparsity, target)} the target ({percent(target)})",
            ),
            (
                "Trials",
                f"{len(trials) - failed:,}",
                f"completed, {stopped:,} of them stopped early; {failed:,} failed; "
                f"{search.plan.trials:,} planned",
            ),
            (
                "Time",
                duration(sum(trial.seconds or 0.0 for trial in trials)),
                f"of all trials together, on {counted(workers, 'worker')}",
            ),
        ]
    )


def _best(search: Results, best: EndedTrial | None) -> str:
    if best is None:
        return "<p>No trial has come to its end.</p>"
    body = "\n".join(
        f'<tr><th scope="row">{_breakable(name)}</th><td>{_breakable(_written(value))}</td>'
        f"<td>{_breakable(_range(search.space[name]))}</td></tr>"
        for name, value in best.active_values.items()
    )
    head = (
        '<tr><th scope="col">Hyperparameter</th><th scope="col">Value</th>'
        '<th scope="col">Searched</th></tr>'
    )
    when = "" if search.test_accuracy is not None else ", once the search has written this file"
    objective = "" if best.objective is None else f"its objective is {best.objective:.4f}, "
    return f"""<p>Trial {escape(best.name)}: {objective}after {counted(best.epochs, "epoch")}.</p>
<div class="card left">{table("Values of the best trial", head, body)}</div>
<p class="note">To train with them, <code>SEARCH</code> being the folder of this search{when}:</p>
<pre tabindex="0"><code>python train.py --config SEARCH/{BEST_CONFIG_FILE}</code></pre>"""


def _breakable(name: str) -> str:
    """Return HTML of a name that a narrow column may break after an underscore."""
    return escape(name).replace("_", "_<wbr>")


def _range(searched: Range) -> str:
    if listed := searched.listed:
        return ", ".join(map(_written, listed))
    scale = ", logarithmic" if searched.is_log else ""
    return f"{_written(searched.minimum)} to {_written(searched.maximum)}{scale}"


def _written(value: Value | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _all_trials(search: Results) -> str:
    names = list(search.space)
    head = "".join(
        f'<th scope="col">{escape(name)}</th>'
        for name in (
            *("Trial", "Objective", "Validation accuracy", "Sparsity", "End", "Epochs", "Time"),
            *("Switcher parameters", "Worker", *names),
        )
    )
    ranked = sorted(
        search.trials, key=lambda t: (t.objective is None, bool(t.stopped), -(t.objective or 0.0))
    )
    body = "\n".join(
        f'<tr><th scope="row">{escape(trial.name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(trial, names))
        + "</tr>"
        for trial in ranked
    )
    if not ranked:
        return "<p>No trial has ended yet.</p>"
    is_open = " open" if len(ranked) <= _SHORT else ""
    return f"""<details{is_open}><summary>{_ended(search)}; the best first, those stopped early \
and those that failed last</summary>
{table("All trials", f"<tr>{head}</tr>", body)}</details>"""


def _cells(trial: EndedTrial, names: Sequence[str]) -> list[str]:
    end = "failed" if trial.objective is None else trial.stopped or "completed"
    ran = trial.epochs if trial.epochs_run is None else trial.epochs_run
    return [
        "–" if trial.objective is None else f"{trial.objective:.4f}",
        percent_or_dash(trial.val_accuracy),
        percent_or_dash(trial.sparsity),
        end,
        f"{trial.epochs}" if ran == trial.epochs else f"{ran} of {trial.epochs}",
        duration(trial.seconds),
        "–" if trial.switcher_parameters is None else f"{trial.switcher_parameters:,}",
        trial.worker,
        *(_written(trial.values.get(name)) for name in names),
    ]
