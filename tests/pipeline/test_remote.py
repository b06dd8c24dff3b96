"""Stages on images behind signed addresses: they find them, and keep nothing secret."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest

from tests.data.fetching.server import serving
from tests.data.own_images import photo_bytes
from tests.pipeline.commands import capt


def test_stages_find_signed_images_and_keep_no_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "artifacts" / "cache"))
    artifacts, table = tmp_path / "artifacts", tmp_path / "labels.csv"
    with serving() as server:
        rows = ["path,label"]
        for number in range(8):
            address = server.put(f"{number}.png", photo_bytes(number), "signed")
            rows.append(f"{address}?key=SECRET,{('ant', 'bee')[number % 2]}")
        table.write_text("\n".join(rows) + "\n")
        for stage in ("prepare", "extract-features"):
            # As another process, which knows of no address yet.
            with patch.dict("capt_core.addresses._private", clear=True):
                capt(stage, "mine", artifacts, [f"data.root={table}"])
    kept = [path for path in artifacts.rglob("*") if path.is_file()]
    assert len(kept) > 5
    assert not [path for path in kept if b"SECRET" in path.read_bytes()]
