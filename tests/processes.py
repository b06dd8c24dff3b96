"""Processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT

# They start quickly: forked from one that has imported everything.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "anthropic",
        "tests.learning.train_toy",
        "tests.prompts.write_once",
        *(f"stages.{stage}" for stage in ("prepare", "extract_features", "mine_pairs", "train")),
    ]
)


def environment(code: Path = PROJECT, **variables: str) -> dict[str, str]:
    """The environment of an activated virtual environment that has the code of a folder."""
    scripts = str(Path(sys.executable).parent)
    path = os.pathsep.join((scripts, os.environ.get("PATH", "")))
    return {**os.environ, "PYTHONPATH": str(code), "PATH": path, **variables}


def python(
    *words: object, cwd: Path = PROJECT, code: Path = PROJECT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the interpreter with these words, the code of a folder and environment variables."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment(code, **variables),
        capture_output=True,
        text=True,
        check=False,
    )
