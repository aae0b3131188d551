"""The figures of a search's report: each picture with its legend and its notes."""

from collections.abc import Sequence
from html import escape

from keras_switcher.report.wording import counted
from keras_switcher.tuning.importance import LEAST_TRIALS, Importances
from keras_switcher.tuning.parallel import objective_floor, parallel_picture, shown_trials
from keras_switcher.tuning.plots import (
    budget_strength,
    importance_alt,
    importance_picture,
    progress_alt,
    progress_picture,
)
from keras_switcher.tuning.results import EndedTrial, Results


def progress_figure(trials: Sequence[EndedTrial]) -> str:
    """Show the objective of each trial in order of ending, or say that there is none.

    Args:
        trials: The trials, in order of ending.
    """
    if all(trial.objective is None for trial in trials):
        return "<p>No trial has come to its end.</p>"
    budgets = sorted({trial.epochs for trial in trials})
    keys = [
        f'<span class="dot" style="--strength:{budget_strength(epochs, budgets):.0%}">'
        f"{counted(epochs, 'epoch')}</span>"
        for epochs in budgets
    ]
    below = sum(t.objective is not None and t.objective < objective_floor(trials) for t in trials)
    if any(trial.stopped for trial in trials):
        keys.append("<span>◇ stopped early</span>")
    if any(trial.objective is None for trial in trials):
        keys.append("<span>× failed</span>")
    if below:
        keys.append("<span>▽ below the axis</span>")
    keys.append('<span class="key best">best so far</span>')
    note = ""
    if below:
        note = (
            f'<p class="note">{counted(below, "trial")} so far below the others that the axis '
            f"would show nothing else {'lies' if below == 1 else 'lie'} at its foot.</p>"
        )
    return f"""<figure class="card picture"><figcaption>{"".join(keys)}</figcaption>
<div class="scroll wide-picture" tabindex="0" role="group" aria-label="Objective over the trials">
{progress_picture(trials, progress_alt(trials))}</div></figure>{note}"""


def parallel_figure(search: Results, best: EndedTrial | None) -> str:
    """Show the hyperparameters of the trials, or say that there is nothing to compare.

    Args:
        search: The search.
        best: Its best trial.
    """
    shown = shown_trials(search.trials)
    space = {
        name: range_
        for name, range_ in search.space.items()
        if len({trial.values.get(name) for trial in shown}) > 1
    }
    if not space:
        return "<p>There are no two trials yet whose hyperparameters differ.</p>"
    alt = (
        f"A line for each of {counted(len(shown), 'trial')} across the axes of {', '.join(space)}, "
        "and of the objective. The table of all trials has the values."
    )
    notes = ["Each line is a trial. Lines of one value lie side by side, the better to the right."]
    left_out = sum(trial.objective is not None for trial in search.trials) - len(shown)
    if left_out:
        least = min(trial.epochs for trial in shown)
        notes.append(
            f"Only the {len(shown):,} trials with {counted(least, 'epoch')} or more are drawn; "
            f"{left_out:,} with fewer are not."
        )
    alike = [name for name in search.space if name not in space]
    if alike:
        notes.append(f"The same in all of them: {', '.join(alike)}.")
    if best is not None and best not in shown:
        notes.append("The best trial is not among them.")
    ramp = "".join(f'<i style="background:var(--rank-{n})"></i>' for n in range(1, 6))
    return f"""<figure class="card picture halo"><figcaption>\
<span class="ranks">poor {ramp} good</span><span class="key best">best</span></figcaption>
{parallel_picture(shown, space, best, alt)}</figure>
<p class="note">{escape(" ".join(notes))}</p>"""


def importance_figure(found: Importances) -> str:
    """Show how much each hyperparameter matters, or say why that can't be told.

    Args:
        found: The importances.
    """
    reason = _no_importance(found)
    if reason:
        return f'<div class="card"><p>{reason}</p></div>'
    return f"""<figure class="card picture"><figcaption>\
<span class="key plain">How much worse held-out trials are predicted when its values are \
shuffled</span><span class="key best">spread</span></figcaption>
{importance_picture(found, importance_alt(found))}</figure>
<p class="note">{_importance_note(found)}</p>"""


def _no_importance(found: Importances) -> str:
    """Say why the importances mean nothing, if that is the case."""
    if not found.has_enough_trials:
        return (
            f"Too few trials to tell. It takes {LEAST_TRIALS} with an objective at one budget, and "
            f"as many with different hyperparameters. So far {found.most_at_one_budget} have the "
            f"most frequent budget, and {found.settings} differ."
        )
    if found.r_squared is None:
        return "No hyperparameter has two values in these trials: there is nothing to compare."
    if not found.explains:
        return (
            "The trials do not explain the objective: a random forest that is fitted to some of "
            f"them predicts the others with R² = {_signed(found.r_squared)}, and noise alone "
            f"reaches {found.chance:.2f}. So nothing can be said on what matters; more trials may "
            "show it."
        )
    return ""


def _importance_note(found: Importances) -> str:
    parts = [
        f"A random forest was fitted to the objectives of {found.trials:,} trials as ranks among "
        "those of one budget, so that neither its epochs count for a trial, nor by how far it "
        f"missed its target. On held-out trials it has R² = {found.r_squared:.2f} ± "
        f"{found.r_squared_spread:.2f}; noise alone reaches {found.chance:.2f}. The spread is that "
        "of repeated splits and shuffles, and not of other trials: pale bars do not stand out even "
        "of it."
    ]
    if found.constant:
        parts.append(f"Of one value, and so left out: {escape(', '.join(found.constant))}.")
    return " ".join(parts)


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
