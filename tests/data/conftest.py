"""Running what messages advise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run the shell command that a message ends with, in another folder than the data's."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), *sys.path]))

    def run(message: str) -> None:
        starts = [message.find(f": {word} ") for word in ("cd", "python")]
        command = message[min(start for start in starts if start >= 0) + 2 :]
        subprocess.run(["bash", "-ec", command], cwd=tmp_path, check=True, timeout=60)

    return run
