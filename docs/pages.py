"""Build hook of mkdocs: pages are put together from the project's own files.

A line ``{{ NAME }}`` of a page is replaced: by a whole file (``{{ CHANGELOG.md }}``), by sections
of one (``{{ README.md # Start # In Python }}``, the last heading's level and below; the lead
before the first section is ``{{ README.md # }}``), by the documentation of the public names
(``{{ api }}``), by a table of the methods (``{{ methods }}``) or by that of their results
(``{{ table1 }}``). So nothing is said twice, and a
heading that goes away fails the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

_LINE = re.compile(r"^\{\{ (.+?) \}\}$", re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this with the text of every page."""
    return _LINE.sub(lambda found: included(found[1]), markdown)


def included(name: str) -> str:
    """What stands for a line of a page.

    Raises:
        ValueError: no such file or heading.
    """
    if name == "api":
        return _public_names()
    if name == "methods":
        return _methods()
    if name == "table1":
        return _table1()
    file, *headings = (part.strip() for part in name.split("#"))
    path = ROOT / file
    if not path.is_file():
        raise ValueError(f"docs: no file {file}")
    # The repository's own files speak of docs/ from outside it.
    text = path.read_text(encoding="utf-8").replace("](docs/", "](")
    if not headings:
        return text
    return "\n\n".join(section(text, heading) for heading in headings)


def section(text: str, heading: str) -> str:
    """A section of Markdown with its heading, up to the next of its level or above.

    Args:
        text: the document.
        heading: without its number signs; empty for what stands before the first section.

    Raises:
        ValueError: no such heading.
    """
    taken: list[str] = []
    level, fenced = 2 if not heading else 0, False
    for line in text.splitlines():
        fenced ^= bool(_FENCE.match(line.lstrip()))
        found = None if fenced else re.match(r"(#+) (.+)", line)
        if found and level and taken and len(found[1]) <= level:
            break
        if found and not level and found[2].strip() == heading:
            level = len(found[1])
        if level:
            taken.append(line)
    if not taken:
        raise ValueError(f"docs: no section is called {heading!r}")
    return "\n".join(taken)


def _public_names() -> str:
    from capt_core import _PLACES

    places = (place.replace(":", ".") for _, place in sorted(_PLACES.items()))
    return "\n\n".join(f"::: {place}" for place in places)


def _methods() -> str:
    from capt_core.methods.registry import method_class, method_names

    rows = ["| name | method | published in | what it does |", "|---|---|---|---|"]
    for name in method_names():
        found = method_class(name)
        first = (found.__doc__ or "").strip().split("\n\n")[0]
        does = " ".join(first.split())
        rows.append(f"| `{name}` | {found.label} | {found.citation} | {does} |")
    return "\n".join(rows)


def _table1() -> str:
    import polars as pl

    from capt_core.reporting.method_table import COLUMNS, to_markdown

    table = pl.read_csv(ROOT / "docs/results/table1.csv", schema=COLUMNS)
    return to_markdown(table, "## Results")
