"""The report of a comparison: one HTML file with its picture and its tables."""

import statistics
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from keras_switcher.compare.figures import CONFIDENCE, Difference, Group, Mean, off_target
from keras_switcher.compare.picture import picture
from keras_switcher.compare.plan import Plan, digest
from keras_switcher.compare.results import differences
from keras_switcher.files import write_text
from keras_switcher.report.frame import document, not_full, section, table
from keras_switcher.report.wording import counted, duration, percent_or_dash
from keras_switcher.runs import REPORT_FILE

# What a difference is, with the part of the data to be filled in.
_MEANING = (
    "Points of {} accuracy, seed by seed: the mean, and its "
    f"{100 * CONFIDENCE:g} % confidence interval by Student's t. Bold: it leaves out 0, of three "
    "seeds or more."
)
_STYLE = """.picture svg { display: block; width: 100%; height: auto; }
.wide-picture svg { min-width: 38rem; }
td.all { text-align: center; }
.clear { font-weight: 650; }
.spread { display: block; color: var(--muted); font-size: 0.85em; white-space: nowrap; }
"""


def write_report(plan: Plan, folder: Path, groups: Sequence[Group], part: str = "test") -> None:
    """Write `report.html`, which loads nothing else, as one atomic unit.

    Args:
        plan: The comparison.
        folder: Its folder.
        groups: The results, in the order of the methods.
        part: As for `page`.
    """
    write_text(folder / REPORT_FILE, page(plan, groups, part))


def page(plan: Plan, groups: Sequence[Group], part: str = "test") -> str:
    """Return the report as a whole HTML document.

    Args:
        plan: The comparison.
        groups: The results, in the order of the methods.
        part: The examples that the figures are of: "test", or "validation", by which one may choose
            a method.
    """
    options = plan.config
    there = {(g.method, g.target_sparsity, r["seed"]) for g in groups for r in g.results}
    missing = sum(
        (str(cell.variant), cell.target_sparsity, cell.seed) not in there for cell in plan.cells()
    )
    all_seeds = sorted({*plan.seeds, *(seed for _, _, seed in there)})
    seeds = f"{counted(len(all_seeds), 'seed')} ({', '.join(map(str, all_seeds))})"
    lead = escape(
        f"{options.optimisation.epochs} epochs, batches of {options.optimisation.batch_size}, "
        f"{options.optimisation.optimizer}, {seeds}, {_source(groups)}; the same data and order of "
        "batches for all, and the same network and initial weights unless a method has its own."
    )
    first_result = groups[0].results[0]
    # An older result does not say how many there are.
    limit = options.data.limit
    examples = int(first_result.get("examples", limit or 0))
    notice = not_full(str(first_result["dataset_source"]), limit, examples, "comparison")
    if missing > 0:
        notice += (
            '<p class="notice" role="note"><strong>Not complete.</strong> '
            f"{counted(missing, 'network')} of {len(plan.cells())} missing: under way, stopped or "
            "failed.</p>\n"
        )
    for fact, kind in (("versions", "versions"), ("processor", "processors")):
        # An older result may lack what was added since.
        several = sorted({str(r[fact]) for g in groups for r in g.results if r.get(fact)})
        if len(several) > 1:
            # These may sum in another order, so the same seed may end with other digits.
            notice += (
                f'<p class="notice" role="note"><strong>Of several {kind}.</strong> The networks '
                f"were trained by {escape('; by '.join(several))}.</p>\n"
            )
    usual = options.optimisation.epochs
    others = {g.title: epochs for g in groups if (epochs := g.results[0]["epochs"]) != usual}
    if others:
        named = ", ".join(f"{title} {epochs}" for title, epochs in others.items())
        notice += (
            '<p class="notice" role="note"><strong>Not of equal length.</strong> Other numbers of '
            f"epochs than {usual}: {escape(named)}.</p>\n"
        )
    first = str(plan.variants[0])
    reference = escape(next((g.title for g in groups if g.method == first), first))
    validated = _accuracy_table(groups, "validation") + _by_these(groups, plan, reference)
    tested = f"""{section("accuracy", "Test accuracy", _accuracies(groups) + _named(groups))}
{section("difference", f"By how much is “{reference}” better?", _differences(groups, plan))}"""
    if part != "test":
        tested = _named(groups) + _note(off_target(groups))
    alt = (
        f"{part.title()} accuracy over sparsity, a line for each method, with a standard deviation "
        "up and down. The tables have the values."
    )
    return document(
        heading=f"{options.network.model} on {options.data.dataset}: methods compared",
        kind="comparison",
        lead=lead,
        notice=notice,
        style=_STYLE,
        main=f"""<section aria-labelledby="picture">
<h2 id="picture">Accuracy over sparsity</h2>
<figure class="card picture"><div class="scroll wide-picture" tabindex="0" role="group" \
aria-label="Accuracy over sparsity">{picture(groups, alt, part)}</div></figure>
<p class="note">Mean over the seeds; bars are one standard deviation. The axis of accuracy is \
logarithmic in the share of wrong answers.</p>
</section>
{tested}
{section("validation", "On the validation examples", validated)}
{section("layers", "Sparsity of each layer", _layers(groups))}
{section("cost", "Cost of training", _costs(groups))}""",
    )


def _source(groups: Sequence[Group]) -> str:
    return str(groups[0].results[0]["dataset_source"])


def _targets(groups: Sequence[Group]) -> list[float]:
    return sorted({g.target_sparsity for g in groups if g.target_sparsity is not None})


def _by_sparsity(groups: Sequence[Group], caption: str, cell: Callable[[Group], str]) -> str:
    """Return a table with a row for each method and a column for each sparsity."""
    targets = _targets(groups)
    head = "".join(f'<th scope="col">{100 * target:g} %</th>' for target in targets)
    rows = []
    for method in dict.fromkeys(group.method for group in groups):
        own = [group for group in groups if group.method == method]
        if own[0].target_sparsity is None:
            cells = f'<td class="all" colspan="{max(1, len(targets))}">{cell(own[0])}</td>'
        else:
            found = {group.target_sparsity: cell(group) for group in own}
            cells = "".join(f"<td>{found.get(target, '–')}</td>" for target in targets)
        rows.append(f'<tr><th scope="row">{escape(own[0].title)}</th>{cells}</tr>')
    return table(caption, f'<tr><th scope="col">Method</th>{head}</tr>', "\n".join(rows))


def _named(groups: Sequence[Group]) -> str:
    """Return a line for each method whose title does not show its options."""
    notes = {
        group.method: f"{group.title}: {group.method.partition(':')[2].replace(',', ', ')}"
        for group in groups
        if digest(group.method) in group.title
    }
    return "".join(f'<p class="note">{escape(note)}.</p>' for note in notes.values())


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def _accuracies(groups: Sequence[Group]) -> str:
    note = "Mean and standard deviation over the seeds; test examples are read once, at the end."
    return _accuracy_table(groups, "test") + _note(f"{note} {off_target(groups)}".strip())


def _accuracy_table(groups: Sequence[Group], part: str) -> str:
    most = max(len(group.results) for group in groups)
    return _by_sparsity(
        groups,
        f"{part.title()} accuracy",
        lambda group: accuracy_text(group.mean(f"{part}_accuracy"), most),
    )


def _by_these(groups: Sequence[Group], plan: Plan, reference: str) -> str:
    """Return what follows the accuracies on the validation examples: the differences, and a note.

    Args:
        groups: The results.
        plan: The comparison.
        reference: Title of its first method, as HTML.
    """
    note = "By these, options may be chosen: the test examples then still tell how good they are."
    differences = _difference_table(groups, plan, "validation")
    if differences:
        differences = (
            f'<p class="note">“{reference}” minus each:</p>{differences}'
            f"{_note(_MEANING.format('validation'))}"
        )
    return f"{differences}{_note(note)}"


def accuracy_text(mean: Mean, seeds: int) -> str:
    """Return a mean accuracy as HTML, such as `98.50 % ± 0.06`.

    Args:
        mean: The mean.
        seeds: How many seeds it would cover if none were missing.
    """
    spread = "one seed" if mean.deviation is None else f"± {100 * mean.deviation:.2f}"
    return f'{100 * mean.mean:.2f} % <span class="spread">{spread}{_few(mean.count, seeds)}</span>'


def _few(count: int, seeds: int) -> str:
    """Return how many seeds there are, if they are fewer than elsewhere."""
    return f", {count} seeds" if 1 < count < seeds else ""


def _differences(groups: Sequence[Group], plan: Plan) -> str:
    shown = _difference_table(groups, plan, "test")
    if not shown:
        return "<p>No other method has a result yet.</p>"
    return shown + _note(_MEANING.format("test"))


def _difference_table(groups: Sequence[Group], plan: Plan, part: str) -> str:
    """Return a table of the differences on one part of the data; nothing if there are none."""
    found = {
        (group.method, target): (group, difference)
        for group, target, difference in differences(groups, plan, f"{part}_accuracy")
    }
    if not found:
        return ""
    most = max(len(group.results) for group in groups)
    # A method without a target is compared with the first one at each sparsity.
    others = [
        Group(group.method, group.title, target, group.results)
        for (_, target), (group, _) in found.items()
    ]

    def cell(group: Group) -> str:
        return difference_text(found[group.method, group.target_sparsity][1], most)

    return _by_sparsity(others, f"Differences of {part} accuracy", cell)


def difference_text(difference: Difference, seeds: int) -> str:
    """Return a difference as HTML, such as `+0.31 (0.20 to 0.42)`.

    Args:
        difference: The difference.
        seeds: How many seeds it would cover if none were missing.
    """
    text = _signed(difference.mean)
    if difference.low is None or difference.high is None:
        return f'{text} <span class="spread">one seed</span>'
    interval = f"{_signed(difference.low)} to {_signed(difference.high)}"
    kind = ' class="clear"' if difference.is_clear else ""
    few = _few(difference.count, seeds)
    return f'<span{kind}>{text}</span> <span class="spread">{interval}{few}</span>'


def _signed(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "\N{MINUS SIGN}")


def _layers(groups: Sequence[Group]) -> str:
    sparse = [group for group in groups if group.target_sparsity is not None]
    if not sparse:
        return "<p>No sparse network is finished yet.</p>"
    names = list(dict.fromkeys(name for group in sparse for name in group.layers()))
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(group.title)}</th><td>{100 * target:g} %</td>'
        + "".join(f"<td>{percent_or_dash(group.layers().get(name))}</td>" for name in names)
        + "</tr>"
        for target in _targets(sparse)
        for group in sparse
        if group.target_sparsity == target
    )
    return table(
        "Sparsity of each layer",
        f'<tr><th scope="col">Method</th><th scope="col">Target</th>{head}</tr>',
        rows,
    )


def _costs(groups: Sequence[Group]) -> str:
    def cell(group: Group) -> str:
        # A few may have been halted or slowed down by other work.
        seconds = statistics.median(float(result["seconds"]) for result in group.results)
        memory = group.mean("peak_mib").mean
        return f'{duration(seconds)} <span class="spread">{memory:,.0f} MiB</span>'

    note = (
        "Median time of a training, without the start of TensorFlow and the test, and mean peak "
        "memory of its process. Times of cells that were trained beside others vary with what "
        "these did."
    )
    return f'{_by_sparsity(groups, "Cost", cell)}<p class="note">{escape(note)}</p>'
