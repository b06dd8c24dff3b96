"""What every stage does first and last: settings, paths, progress, a record of the run."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capt_core.artifacts.layout import Layout, RunLayout, SeedLayout
    from capt_core.params import Matrix, Settings


@dataclass(frozen=True)
class Run:
    """One invocation of a stage.

    Attributes:
        settings: as they hold for the data set.
        matrix: what `dvc repro` fans out over.
        layout: paths of the data set's artifacts; of none for a stage that covers all.
        seed: the seed given, or the first of the settings.
        seeds: the seed given, or all of the settings.
    """

    settings: Settings
    matrix: Matrix
    layout: Layout
    seed: int
    seeds: Sequence[int]

    @property
    def seed_layout(self) -> SeedLayout:
        return self.layout.seed(self.seed)

    def method_layout(self, method: str) -> RunLayout:
        return self.seed_layout.run(method)


@contextlib.contextmanager
def stage_run(
    stage: str,
    dataset: str | None,
    seed: int | None,
    params: Path,
    artifacts: Path,
    overrides: Sequence[str] | None,
    method: str = "",
) -> Iterator[Run]:
    """Load the settings, run the stage's body, record how long it took and with what.

    The record goes to ``<artifacts>/runs/``, apart from the artifacts, whose bytes must not
    depend on the time or the machine.

    Raises:
        CaptError: bad settings, or ``--set`` under DVC.
    """
    from capt_core.artifacts.layout import Layout
    from capt_core.data.registry import check_dataset_name
    from capt_core.errors import CaptError
    from capt_core.params import load_settings

    if overrides and os.environ.get("DVC_STAGE"):
        raise CaptError(
            "--set does not work under DVC; use dvc exp run --set-param section.key=value"
        )
    settings, matrix = load_settings(params, dataset, overrides or ())
    layout = Layout(artifacts, dataset or "")
    if dataset is not None:
        listed = dataset in matrix.datasets or layout.samples.is_file()
        check_dataset_name(dataset, settings.data, listed)
    run = Run(
        settings=settings,
        matrix=matrix,
        layout=layout,
        seed=matrix.seeds[0] if seed is None else seed,
        seeds=matrix.seeds if seed is None else [seed],
    )
    started = time.perf_counter()
    yield run
    name = "-".join(filter(None, (stage, dataset, method, f"seed{run.seed}")))
    _record(artifacts, name, started)


def load_for(dataset: str, params: Path, overrides: Sequence[str] | None) -> Settings:
    """Settings as they hold for one of several data sets that a stage covers."""
    from capt_core.params import load_settings

    return load_settings(params, dataset, overrides or ())[0]


def say(text: str) -> None:
    """Print one line of what a stage found or wrote."""
    print(text, flush=True)


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to be told of finished units.

    A bar with time left on a terminal; elsewhere a plain line at every tenth.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
        return

    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if total >= 10 and before * 10 // total != done * 10 // total:
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

    yield advance


def _record(artifacts: Path, name: str, started: float) -> None:
    import platform

    from capt_core import __version__
    from capt_core.artifacts.files import write_json

    torch = sys.modules.get("torch")
    write_json(
        artifacts / "runs" / f"{name}.json",
        {
            "seconds": round(time.perf_counter() - started, 2),
            "capt": __version__,
            "python": platform.python_version(),
            "torch": getattr(torch, "__version__", None),
            "platform": platform.platform(),
        },
    )
