"""Placeholder while the report is written on its branch."""

from pathlib import Path


def write_report(folder: Path) -> Path:
    """Return where it will be."""
    return folder / "report.html"
