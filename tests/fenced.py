"""The code in a page of documentation."""

import re


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a language in a Markdown text."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
