"""The notebook in docs/: it runs from top to bottom, and its pictures are kept in it."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import PROJECT

NOTEBOOK = PROJECT / "docs" / "notebook.ipynb"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    kept = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    again = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    for cell in again.cells:
        cell.pop("outputs", None)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(again, timeout=600, kernel_name="python3", resources=where).execute()

    def kinds(notebook: nbformat.NotebookNode) -> list[list[str]]:
        return [
            # What is printed comes in one piece or in several, as fast as the machine is.
            [kind for kind, _ in groupby(output["output_type"] for output in cell.outputs)]
            for cell in notebook.cells
            if cell.cell_type == "code"
        ]

    # What it prints depends on the machine's last digits; that it prints and draws does not.
    assert kinds(again) == kinds(kept)


def test_the_kept_notebook_is_small_and_names_no_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 300_000
    assert '"name": "stderr"' not in text
    assert "/home/" not in text
    assert "site-packages" not in text
    assert text.count("image/jpeg") >= 3
