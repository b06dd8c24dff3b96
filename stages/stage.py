"""What a stage is run for, reads and writes, declared once in its own file.

`dvc.yaml`, the study's pipeline and the README's table of stages are written from it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from capt_core.artifacts.layout import Layout, ReportLayout, RunLayout, SeedLayout

if TYPE_CHECKING:
    from capt_core.methods.method import Need

Axis = Literal["dataset", "method", "seed"]


@dataclass(frozen=True)
class Place:
    """Paths of the artifacts of one run of a stage.

    Attributes:
        data: of the data set.
        fewshot: the few-shot list of the seed.
        seed: what was mined from this list.
        run: of the method.
        evaluation: record of the method and seed.
        report: of what covers all data sets.
    """

    data: Layout
    fewshot: Path
    seed: SeedLayout
    run: RunLayout
    evaluation: Path
    report: ReportLayout

    @staticmethod
    def of(
        root: Path,
        dataset: str,
        method: str,
        seed: int | str,
        shots: int | str,
        shared: Path | None = None,
    ) -> Place:
        """Paths below the folder of the artifacts; words may be patterns, as DVC has them.

        `shared` is the folder of what no variant changes, where `root` is that of a variant.
        """
        data = Layout(root, dataset, shared)
        seeded = data.seed(seed)
        return Place(
            data,
            data.fewshot(shots, seed),
            seeded,
            seeded.run(method),
            data.evaluation(method, seed),
            ReportLayout(root),
        )

    @property
    def dataset(self) -> tuple[Path, Path]:
        """The tables that `load_dataset` reads."""
        return self.data.samples, self.data.classes


Paths = Callable[[Place], Iterable[Path]]


@dataclass(frozen=True)
class Stage:
    """Declaration of a stage.

    Attributes:
        writes: artifacts it writes.
        per: what it is run for every combination of.
        params: settings it reads, ``section`` or ``section.key``, in DVC's notation.
        reads: artifacts it reads.
        reads_for: those of `reads` that only methods with one of some needs are given, with these.
        params_for: settings that only methods with a need are given, by what they need.
        sources: files of the project, beside code, that it alone depends on.
        metrics: metrics files it writes, shown by ``dvc metrics show``.
        plots: tables it writes for ``dvc plots``, with DVC's options.
    """

    writes: Paths
    per: tuple[Axis, ...] = ()
    params: tuple[str, ...] = ()
    reads: Paths = lambda at: ()
    reads_for: Callable[[Place], Mapping[Path, Set[Need]]] = lambda at: {}
    params_for: Mapping[str, Need] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    metrics: Paths = lambda at: ()
    plots: Callable[[Place], Mapping[Path, Mapping[str, str]]] = lambda at: {}

    def outputs(self, at: Place) -> list[Path]:
        """Everything it writes, metrics and plots included."""
        return [*self.writes(at), *self.metrics(at), *self.plots(at)]

    def needed(self, at: Place, needs: Collection[Need]) -> list[Path]:
        """What a run of a method with these needs reads."""
        special = self.reads_for(at)
        return [
            path
            for path in self.reads(at)
            if path not in special or not special[path].isdisjoint(needs)
        ]
