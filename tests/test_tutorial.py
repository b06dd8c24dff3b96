"""The tutorial in docs/: its commands run as they stand, and print what it quotes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.tutorial import PAGE, environment, pieces, run

_NUMBER = re.compile(r"(?<![\w-])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w-])")
"""Numbers that stand alone; others belong to the name of a file or class."""

_PAIR = re.compile(r"^\S+ taken for \S+:")


def shape(line: str, trained: bool) -> tuple[str, list[float]]:
    """A line without its numbers and spacing, and its numbers.

    Args:
        line: of a result.
        trained: it may say which pairs are left after training, whose order hangs on one image.
    """
    line = " ".join(line.split())
    if trained:
        line = _PAIR.sub("PAIR", line)
    return _NUMBER.sub("#", line), [float(each) for each in _NUMBER.findall(line)]


def near(quoted: float, printed: float) -> bool:
    """Whether two numbers may come from two machines, whose sums differ in the last digits."""
    if quoted <= 1 and printed <= 1:
        return abs(quoted - printed) <= 0.3
    return abs(quoted - printed) <= 4 + 0.25 * max(quoted, printed)


def missing(quoted: str, printed: str) -> str | None:
    """The first quoted line that is not printed after those before it; None if all are.

    A line of three dots stands for any lines, also for none; without it lines follow each other.
    """
    trained = "after:" in printed
    lines = [shape(line, trained) for line in printed.splitlines()]
    at, skip = 0, False
    for line in quoted.splitlines():
        if line == "...":
            skip = True
            continue
        words, numbers = shape(line, trained)
        while skip and at < len(lines) and lines[at][0] != words:
            at += 1
        if at == len(lines) or lines[at][0] != words:
            return line
        if not all(map(near, numbers, lines[at][1])):
            return line
        at, skip = at + 1, False
    return None if skip or at == len(lines) else f"and then: {lines[at][0]}"


def test_what_counts_as_quoted() -> None:
    printed = "[1/2] prepare\n5 of 20 wrong\n  a taken for b: 3 of 7\n"
    assert missing("...\n6 of 20 wrong\n  a taken for b: 3 of 7\n", printed) is None
    assert missing("[1/2] prepare\n...\n", printed) is None
    assert missing("...\n5 of 20 right\n...\n", printed) == "5 of 20 right"
    assert missing("...\n5 of 90 wrong\n...\n", printed) == "5 of 90 wrong"
    assert missing("5 of 20 wrong\n...\n", printed) == "5 of 20 wrong"
    assert missing("...\n  a taken for c: 3 of 7\n", printed) == "  a taken for c: 3 of 7"
    assert missing("[1/2] prepare\n", printed) == "and then: # of # wrong"
    assert missing("IMG_0100.jpg\n", "IMG_0102.jpg\n") == "IMG_0100.jpg"


def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    for extra in ("onnxscript", "captum"):
        pytest.importorskip(extra)
    folder, scripts = tmp_path / "work", tmp_path / "scripts"
    folder.mkdir()
    scripts.mkdir()
    variables = environment(scripts)
    printed, commands = "", ""
    parts = list(pieces(PAGE.read_text(encoding="utf-8")))
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        if part.kind == "file":
            (folder / part.name).write_text(part.text, encoding="utf-8")
        elif part.kind == "output":
            gone = missing(part.text, printed)
            assert gone is None, f"{commands} does not print: {gone}\n{printed}"
        elif part.kind == "commands":
            commands = part.text
            done = run(commands, folder, variables)
            printed = done.stdout
            # What is found to be wrong is the only thing that may fail, and the page quotes it.
            said = after is not None and after.kind == "output" and " fail " in after.text
            assert (done.returncode != 0) == said, f"{commands}{printed}{done.stderr}"


def test_the_pictures_are_there_and_small() -> None:
    names = {part.name for part in pieces(PAGE.read_text(encoding="utf-8")) if part.name}
    pictures = list((PAGE.parent / "tutorial").iterdir())
    assert {path.stem for path in pictures} == {name for name in names if "." not in name}
    assert sum(path.stat().st_size for path in pictures) < 400_000
