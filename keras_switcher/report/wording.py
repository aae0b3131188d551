"""How the report writes numbers."""

_SPACE = "\N{NO-BREAK SPACE}"


def percent(share: float) -> str:
    """Write a share as a percentage with two decimals."""
    return f"{100 * share:.2f}{_SPACE}%"


def percent_or_dash(share: float | None) -> str:
    """Write a share as a percentage, or a dash where there is none."""
    return "–" if share is None else percent(share)


def counted(number: int, noun: str) -> str:
    """Write a number and what it counts, which takes an `s` in the plural."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def difference(share: float, reference: float) -> str:
    """Write how many percentage points a share is above or below another."""
    points = round(100 * (share - reference), 2)
    if points == 0:
        return "the same as"
    return f"{abs(points):.2f} points {'above' if points > 0 else 'below'}"


def duration(seconds: float | None) -> str:
    """Write a duration in the units that suit it."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest:02d}{_SPACE}s"
    return f"{minutes // 60}{_SPACE}h {minutes % 60:02d}{_SPACE}min"


def size(number: int | None) -> str:
    """Write a number of bytes, in kB from 1,000 on."""
    if number is None:
        return "–"
    return f"{number}{_SPACE}bytes" if number < 1000 else f"{number / 1000:,.1f}{_SPACE}kB"
