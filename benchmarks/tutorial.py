"""The tutorial in docs/ as it runs: its files, commands, quoted results and pictures, in order.

    python -m benchmarks.tutorial

runs every command of `docs/tutorial.md` in a temporary folder and takes its pictures anew, in a
headless Chromium. `tests/test_tutorial.py` runs the same and compares what the page quotes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

PROJECT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = PROJECT / "docs" / "tutorial.md"

_PIECE = re.compile(
    r"^```(?P<language>[a-z]+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$"
    r"|^!\[[^\]]*\]\(tutorial/(?P<picture>[a-z-]+)\.webp\)",
    re.MULTILINE | re.DOTALL,
)

_WIDTH = 1000
_SHARPNESS = 1.25  # pixels of a picture per pixel of the page
_QUALITY = 65  # of WebP
_FIRST = "artifacts/kept/first/report.html"


@dataclass(frozen=True)
class Piece:
    """A part of the page that is executed, or compared.

    Attributes:
        kind: ``file``: saved under `name`; ``commands``: run; ``output``: quoted from what the
            commands before it print; ``picture``: taken here.
        text: content, commands or quoted lines.
        name: of a file, or of a picture without its ending.
    """

    kind: Literal["file", "commands", "output", "picture"]
    text: str
    name: str = ""


def pieces(page: str) -> Iterator[Piece]:
    """The parts of a page, in order; fences in other languages are only read."""
    for found in _PIECE.finditer(page):
        if found["picture"]:
            yield Piece("picture", "", found["picture"])
        elif found["title"]:
            yield Piece("file", found["text"], found["title"])
        elif found["language"] == "sh":
            yield Piece("commands", found["text"])
        elif found["language"] == "text":
            yield Piece("output", found["text"])


def environment(scripts: Path) -> dict[str, str]:
    """Variables with which `capt-stage` and `python` are those of this checkout.

    Args:
        scripts: an empty folder, which gets the command.
    """
    command = scripts / "capt-stage"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stages.cli "$@"\n')
    command.chmod(0o755)
    interpreter = str(Path(sys.executable).parent)
    path = os.pathsep.join((str(scripts), interpreter, os.environ.get("PATH", "")))
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(PROJECT), "PATH": path}


def run(text: str, folder: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a block of commands in a folder, up to the first that fails."""
    return subprocess.run(
        ["sh", "-e", "-c", text],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )


def _photographs(folder: Path, to: Path) -> None:
    """Eight photographs of each class folder, a row per folder."""
    side, gap = 80, 6
    rows = sorted(path for path in (folder / "photos").iterdir() if path.is_dir())
    sheet = Image.new("RGB", (8 * (side + gap) - gap, len(rows) * (side + gap) - gap), "white")
    for down, row in enumerate(rows):
        for across, path in enumerate(sorted(row.glob("*.jpg"))[:8]):
            with Image.open(path) as image:
                shown = image.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(shown, (across * (side + gap), down * (side + gap)))
    sheet.save(to, quality=_QUALITY, method=6)


def _section(page: Page, part: str) -> Locator:
    return page.locator(f"section[aria-labelledby=d1-{part}]")


def _matrix(page: Page) -> Locator:
    page.get_by_role("button", name="Repaired model").click()
    page.locator('td[data-true="striped"][data-taken="banded"]').click()
    page.locator(".panel-images img").first.wait_for()
    return _section(page, "matrix")


_SCREENSHOTS: Final[Mapping[str, tuple[str, Callable[[Page], Locator]]]] = {
    "before": (_FIRST, lambda page: _section(page, "matrix")),
    "summary": (_FIRST, lambda page: _section(page, "summary")),
    "matrix": (_FIRST, _matrix),
    "steps": (_FIRST, lambda page: _section(page, "steps")),
    "suspects": (_FIRST, lambda page: _section(page, "suspects")),
    "changes": ("artifacts/kept/second/report.html", lambda page: _section(page, "changes")),
}


def take_picture(name: str, folder: Path, browser: Browser, to: Path) -> None:
    """Take a picture of the page, of what the commands before it have left in the folder."""
    if name == "photos":
        _photographs(folder, to)
        return
    taken = to.with_suffix(".png")
    if name == "explanation":
        shutil.copyfile(folder / "explanation.png", taken)
    else:
        file, find = _SCREENSHOTS[name]
        page = browser.new_page(
            viewport={"width": _WIDTH, "height": 800}, device_scale_factor=_SHARPNESS
        )
        page.goto((folder / file).as_uri())
        find(page).screenshot(path=taken)
        page.close()
    with Image.open(taken) as image:
        image.convert("RGB").save(to, quality=_QUALITY, method=6)
    taken.unlink()


def main() -> None:
    """Run the page and take its pictures."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        folder, scripts = Path(place, "work"), Path(place, "scripts")
        folder.mkdir()
        scripts.mkdir()
        variables = environment(scripts)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for piece in pieces(PAGE.read_text(encoding="utf-8")):
            if piece.kind == "file":
                (folder / piece.name).write_text(piece.text, encoding="utf-8")
            elif piece.kind == "commands":
                print(f"$ {piece.text}{run(piece.text, folder, variables).stdout}", flush=True)
            elif piece.kind == "picture":
                to = PAGE.parent / "tutorial" / f"{piece.name}.webp"
                take_picture(piece.name, folder, browser, to)
        browser.close()


if __name__ == "__main__":
    main()
