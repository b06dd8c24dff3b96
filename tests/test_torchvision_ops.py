"""open_clip can be imported, whichever torch stands beside torchvision."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.processes import python

PROGRAMS = {
    "first": "import open_clip",
    "after torch": "import torch, open_clip",
    "torchvision": "from torchvision import transforms, datasets",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_users_own_script_imports_it(program: str, tmp_path: Path) -> None:
    result = python("-c", program, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    # The environment itself sees to it, not a module that this script would have to import.
    found = {each.value for each in entry_points(group="torch.backends")}
    assert "capt_core.torchvision_ops:ensure_torchvision" in found


def test_operators_are_declared_only_where_needed() -> None:
    alone = python("-c", "import torchvision", TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    result = python(
        "-c",
        "import torch, torchvision\n"
        "from capt_core.torchvision_ops import ensure_torchvision, operators_declared\n"
        "ensure_torchvision()\n"  # a second time
        "print(operators_declared())",
    )
    assert result.returncode == 0, result.stderr
    needed = alone.returncode != 0
    assert result.stdout.split() == [str(needed)]
    if needed:
        assert "torchvision::nms" in alone.stderr


def test_other_errors_of_torchvision_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('other')")
    result = python(
        "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import torch, torchvision"
    )
    assert result.returncode != 0
    assert "RuntimeError: other" in result.stderr
