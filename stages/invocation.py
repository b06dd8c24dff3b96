"""What every stage does first and last: settings, paths, a record of the run."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from capt_core import __version__
from capt_core.artifacts.files import write_json
from capt_core.artifacts.layout import Layout, RunLayout, SeedLayout
from capt_core.data.registry import check_dataset_name
from capt_core.errors import CaptError
from capt_core.params import Matrix, Runtime, Settings, load_settings

from .console import first_process, note, output, progress, reporter, result, say, warn
from .variation import variation

__all__ = [
    "Run",
    "first_process",
    "invocation",
    "progress",
    "recorded",
    "reporter",
    "result",
    "say",
    "warn",
]


@dataclass(frozen=True)
class SettingsSources:
    """What the settings of a run are merged from; see `params.load_settings`."""

    path: Path | None
    dataset: str | None
    overrides: Sequence[str]
    change: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One invocation of a stage.

    Attributes:
        settings: as they hold for the data set.
        matrix: what `dvc repro` fans out over.
        sources: where the settings come from.
        layout: paths of the data set's artifacts; of none for a stage that covers all.
        dataset: name of the data set; empty for a stage that covers all.
        method: name of the method; empty for a stage that is not run per method.
        variant: of the study or the table of all methods; None outside them.
        entry: what its artifacts are named after: the method, or the row of the table.
        artifacts: folder of the artifacts, of all variants.
        seed: the seed given, or the first of the settings.
        seeds: the seed given, or all of the settings.
        name: of this invocation's record.
    """

    settings: Settings
    matrix: Matrix
    sources: SettingsSources
    layout: Layout
    dataset: str
    method: str
    variant: str | None
    entry: str
    artifacts: Path
    seed: int
    seeds: Sequence[int]
    name: str

    @property
    def seed_layout(self) -> SeedLayout:
        return self.layout.seed(self.seed)

    @property
    def method_layout(self) -> RunLayout:
        return self.seed_layout.run(self.entry)

    def settings_for(self, dataset: str) -> Settings:
        """Settings as they hold for one of several data sets that a stage covers."""
        return load_settings(self.sources.path, dataset, self.sources.overrides)[0]

    def record_path(self, what: str, suffix: str = ".parquet") -> Path:
        """File for facts of this run that depend on the time or the machine."""
        return self.artifacts / "runs" / f"{self.name}-{what}{suffix}"


@contextlib.contextmanager
def recorded(run: Run) -> Iterator[Run]:
    """Run a stage's body in the block, record how long it took and with what.

    The record goes to ``<artifacts>/runs/``, apart from the artifacts, whose bytes must not
    depend on the time or the machine.
    """
    if output.verbose:
        _describe(run.settings.runtime)
    started = time.perf_counter()
    yield run
    if first_process():
        _record(run, started)


def invocation(
    stage: str,
    dataset: str | None,
    seed: int | None,
    params: Path | None,
    artifacts: Path,
    overrides: Sequence[str] | None,
    method: str = "",
    variant: str | None = None,
) -> Run:
    """Load the settings that a stage runs with, and name its paths.

    Args:
        stage: its name.
        dataset: its data set; None for a stage that covers all.
        seed: few-shot draw; None takes the first of the settings.
        params: settings file; None takes the packaged settings.
        artifacts: folder of the artifacts.
        overrides: ``section.key=value`` strings.
        method: for a stage that is run per method.
        variant: of the study or the table of all methods.

    Raises:
        CaptError: bad settings, ``--set`` under DVC, or a method that the variant is not of.
    """
    if overrides and os.environ.get("DVC_STAGE"):
        raise CaptError(
            "--set does not work under DVC, which would not know of it; edit params.yaml"
        )
    varied = variation(variant)
    varied.check(method)
    sources = SettingsSources(params, dataset, tuple(overrides or ()), varied.change)
    settings, matrix = load_settings(params, dataset, sources.overrides, varied.change)
    number = matrix.seeds[0] if seed is None else seed
    layout = varied.layout(artifacts, dataset or "")
    if dataset is not None:
        listed = dataset in matrix.datasets or layout.samples.is_file()
        check_dataset_name(dataset, settings.data, listed)
    return Run(
        settings=settings,
        matrix=matrix,
        sources=sources,
        layout=layout,
        dataset=dataset or "",
        method=method,
        variant=variant,
        entry=varied.entry(method),
        artifacts=artifacts,
        seed=number,
        seeds=matrix.seeds if seed is None else [seed],
        name="-".join(filter(None, (stage, dataset, variant, method, f"seed{number}"))),
    )


def _describe(runtime: Runtime) -> None:
    """Print versions, and the device with what decided for it."""
    from capt_core.device import choose_device

    packages = ("torch", "torchvision", "open_clip_torch", "polars", "numpy")
    versions = [f"{name} {version(name)}" for name in packages]
    note(f"capt-stage {__version__}, Python {platform.python_version()}, {', '.join(versions)}")
    try:
        device = str(choose_device(runtime)[0])
    except CaptError as error:
        device = f"none ({error})"
    seen = "sees a GPU" if sys.modules["torch"].cuda.is_available() else "sees no GPU"
    note(f"device: {device}; runtime.device is {runtime.device} and torch {seen}")


def _record(run: Run, started: float) -> None:
    torch = sys.modules.get("torch")
    write_json(
        run.artifacts / "runs" / f"{run.name}.json",
        {
            "seconds": round(time.perf_counter() - started, 2),
            "capt": __version__,
            "python": platform.python_version(),
            "torch": getattr(torch, "__version__", None),
            "platform": platform.platform(),
        },
    )
