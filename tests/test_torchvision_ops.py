"""open_clip imports whichever torch stands beside torchvision."""

from __future__ import annotations

from pathlib import Path

from tests.processes import python


def test_open_clip_imports_and_the_operators_are_declared_only_where_needed() -> None:
    alone = python("-c", "import torchvision")
    result = python(
        "-c",
        "from capt_core.torchvision_ops import ensure_torchvision\n"
        "first, second = ensure_torchvision(), ensure_torchvision()\n"
        "import open_clip\n"
        "from torchvision import transforms\n"
        "print(first, second)\n",
    )
    assert result.returncode == 0, result.stderr
    needed = alone.returncode != 0
    assert result.stdout.split() == [str(needed), str(needed)]
    if needed:
        assert "torchvision::nms" in alone.stderr


def test_other_import_errors_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('other')")
    result = python(
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from capt_core.torchvision_ops import ensure_torchvision\n"
        "ensure_torchvision()\n",
    )
    assert result.returncode != 0
    assert "RuntimeError: other" in result.stderr
