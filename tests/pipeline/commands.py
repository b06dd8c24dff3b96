"""Running stages: in this process, or as a command of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from stages.commands import PIPELINE
from tests.conftest import PROJECT
from tests.processes import python

SMALL = (
    "prepare.proctex_train=12",
    "prepare.proctex_val=4",
    "prepare.proctex_test=6",
    "fewshot.shots=8",
    "methods.capt.train.epochs=2",
    "runtime.workers=1",
)

BEFORE_TRAINING = PIPELINE[:-3]


def arguments(
    stage: str,
    dataset: str,
    artifacts: Path,
    overrides: Sequence[str] = (),
    method: str | None = None,
    variant: str | None = None,
) -> list[str]:
    """Command-line arguments of a stage for seed 1."""
    words = [stage, "--dataset", dataset, "--seed", "1", "--artifacts", str(artifacts)]
    words += ["--params", str(PROJECT / "params.yaml")]
    if method:
        words += ["--method", method]
    if stage == "generate-prompts":
        # Answers that lie in the project must not get into a test.
        words += ["--set", f"generate_prompts.answers={artifacts / 'answers'}"]
    if variant:
        words += ["--variant", variant]
    for override in overrides:
        words += ["--set", override]
    return words


def capt(
    stage: str, dataset: str, artifacts: Path, overrides: Sequence[str] = (), **options: str | None
) -> None:
    """Run a stage in this process, perhaps for a `method` or `variant`; its errors are raised."""
    from stages.cli import app

    app(arguments(stage, dataset, artifacts, overrides, **options), standalone_mode=False)


def run_pipeline(artifacts: Path, dataset: str, overrides: Sequence[str]) -> None:
    """Run all twelve stages for both methods."""
    for stage in BEFORE_TRAINING:
        capt(stage, dataset, artifacts, overrides)
    for method in ("clip", "capt"):
        for stage in ("train", "evaluate"):
            capt(stage, dataset, artifacts, overrides, method=method)
    capt("report", dataset, artifacts, overrides)


def run(artifacts: Path, dataset: str, overrides: Sequence[str], *words: str) -> None:
    """The same by one command."""
    from stages.cli import app

    app([*arguments("run", dataset, artifacts, overrides), *words], standalone_mode=False)


def command(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `capt-stage` as its own process."""
    return python("-m", "stages.cli", *words)


def contents(folder: Path) -> dict[str, bytes]:
    """Every artifact below a folder by relative path; the records of runs are left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "runs" not in path.relative_to(folder).parts
    }
