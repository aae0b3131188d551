"""The common parts of the reports' pages: the document, figures on cards, and tables."""

import importlib.resources
from collections.abc import Iterable
from html import escape

from keras_switcher.data import EMBEDDED


def document(
    heading: str, kind: str, lead: str, main: str, notice: str = "", style: str = ""
) -> str:
    """Return a whole HTML document, which loads nothing else.

    Args:
        heading: What the report is about, as plain text.
        kind: What kind of report it is, as plain text; for the window's title.
        lead: HTML of the line below the heading.
        main: HTML of everything below.
        notice: HTML of a warning below the lead, if there is one.
        style: Rules to add to the style sheet.
    """
    sheet = importlib.resources.files(__package__).joinpath("report.css").read_text("utf-8")
    title = escape(heading)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}: {escape(kind)}</title>
<style>
{sheet}{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{notice}</header>
<main>
{main}
</main>
</body>
</html>
"""


def section(name: str, title: str, content: str) -> str:
    """Return a section of the page.

    Args:
        name: Its identifier.
        title: HTML of its heading.
        content: HTML of what stands below.
    """
    return f'''<section aria-labelledby="{name}">
<h2 id="{name}">{title}</h2>
{content}
</section>'''


def not_full(source: str, limit: int | None, examples: int, kind: str) -> str:
    """Return a notice if figures are not of a whole data set, otherwise nothing.

    Args:
        source: Where the data comes from.
        limit: The largest number of its examples to use, if there is one.
        examples: How many were trained and validated on.
        kind: What the figures are of: a "run", a "comparison".
    """
    reasons = [f"its images are {source}"] if source == EMBEDDED else []
    # One above the number of examples limits nothing.
    if limit is not None and limit <= examples:
        reasons.append(f"it used only the first {limit} examples for training and for the test")
    if not reasons:
        return ""
    return (
        f'<p class="notice" role="note"><strong>Not the full data set.</strong> This {kind} is '
        f"small: {escape('; '.join(reasons))}. Its accuracy can't be compared with results on the "
        "full data set.</p>\n"
    )


def cards(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return figures on cards.

    Args:
        rows: For each figure its name, its value and a remark, as plain text.
    """
    return (
        '<dl class="figures">\n'
        + "\n".join(
            f'<div class="card"><dt>{escape(label)}</dt><dd class="value">{escape(value)}</dd>'
            f'<dd class="aside">{escape(aside)}</dd></div>'
            for label, value, aside in rows
        )
        + "\n</dl>"
    )


def table(caption: str, head: str, body: str, foot: str = "", after: str = "") -> str:
    """Return a table that scrolls within itself if it is wider than the page.

    Args:
        caption: What the table shows, as plain text.
        head: HTML of its first row.
        body: HTML of the other rows.
        foot: HTML of a last row of sums, if there is one.
        after: HTML that follows it and does not scroll.
    """
    foot = f"<tfoot>{foot}</tfoot>\n" if foot else ""
    return f"""<div class="scroll" tabindex="0" role="group" aria-label="{escape(caption)}"><table>
<caption class="unseen">{escape(caption)}</caption>
<thead>{head}</thead>
<tbody>
{body}
</tbody>
{foot}</table></div>{after}"""
