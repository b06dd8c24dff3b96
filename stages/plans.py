"""The jobs of what `submit` sends: the study, the table of all methods, features, predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from capt_core.artifacts.layout import Layout, StudyLayout, TablesLayout
from capt_core.method_table import TableRow
from capt_core.params import check_seed, load_settings
from capt_core.study import variant, variants

from .job_arrays import Job, JobArray
from .steps import Step, steps_to
from .study import steps_of
from .tables import FIRST, Part, Work
from .updating import up_to_date


@dataclass(frozen=True)
class Shared:
    """Options that all jobs of a plan share.

    Attributes:
        dataset: its name.
        params: settings file; None takes the packaged settings.
        artifacts: folder of the artifacts.
        overrides: ``section.key=value`` strings.
    """

    dataset: str
    params: Path | None
    artifacts: Path
    overrides: list[str]

    def words(self, command: str, *more: str, seeds: Iterable[int] = ()) -> tuple[str, ...]:
        """A command line with these options."""
        words = [command, "--dataset", self.dataset, "--artifacts", str(self.artifacts)]
        words += [] if self.params is None else ["--params", str(self.params)]
        words += [word for seed in seeds for word in ("--seed", str(seed))]
        words += [word for text in self.overrides for word in ("--set", text)]
        return (*words, *more)

    def are_up_to_date(self, steps: Iterable[Step], of: str | None = None) -> bool:
        """Whether steps, perhaps of a variant, need not run."""
        call = (self.dataset, self.params, self.artifacts, self.overrides, of)
        return all(up_to_date(step, *call) for step in steps)


def features_plan(shared: Shared, seeds: Sequence[int], shards: int) -> list[JobArray]:
    """The data set prepared and its images encoded; the last array is named ``features``.

    Args:
        shared: options of all jobs.
        seeds: whose few-shot lists are drawn.
        shards: jobs that share the images; what they write, the last job merges.
    """
    _, matrix = load_settings(shared.params, shared.dataset, shared.overrides)
    steps = steps_to(FIRST[-1], (), seeds, set(seeds) <= set(matrix.seeds))

    def until(name: str, stages: tuple[str, ...], after: tuple[str, ...] = ()) -> JobArray:
        words = shared.words("run", "--until", stages[-1], seeds=seeds)
        needed = [step for step in steps if step.stage in stages]
        return JobArray(name, (Job(name, words, lambda: shared.are_up_to_date(needed)),), after)

    if shards == 1:
        return [until("features", FIRST)]
    extraction = [step for step in steps if step.stage == FIRST[-1]]
    parts = tuple(
        Job(
            f"shard-{number}",
            shared.words(FIRST[-1], "--shard", f"{number}/{shards}"),
            lambda: shared.are_up_to_date(extraction),
        )
        for number in range(1, shards + 1)
    )
    return [
        until("prepare", FIRST[:1]),
        JobArray("shards", parts, ("prepare",)),
        until("features", FIRST, ("shards",)),
    ]


def study_plan(
    shared: Shared, names: Sequence[str], methods: Sequence[str], seeds: Sequence[int], shards: int
) -> list[JobArray]:
    """Every variant and draw of the study behind the features, then its tables.

    Args:
        shared: options of all jobs.
        names: of variants; all if none is given.
        methods: those of the study's tables if none is given.
        seeds: few-shot draws; all of the settings if none is given.
        shards: as in `features_plan`.
    """
    seeds = drawn(shared, seeds)

    def cell(name: str, seed: int) -> Job:
        chosen = list(methods or variant(name).methods)
        more = [word for method in methods for word in ("--method", method)]
        words = shared.words("study", "--variant", name, *more, seeds=[seed])
        steps = steps_of(seed, chosen)
        return Job(f"{name}-seed{seed}", words, lambda: shared.are_up_to_date(steps, name))

    cells = tuple(cell(name, seed) for name in names or variants() for seed in seeds)
    layout = StudyLayout(shared.artifacts)
    records = [path for name in variants() for path in layout.evaluations(name, shared.dataset)]
    report = Job("study-report", shared.words("study-report"), lambda: _newer(layout.html, records))
    return [
        *features_plan(shared, seeds, shards),
        JobArray("cells", cells, ("features",)),
        JobArray("study-report", (report,), ("cells",), at_any_rate=True),
    ]


def tables_plan(
    shared: Shared, rows: Sequence[TableRow], work: Work, shards: int
) -> list[JobArray]:
    """What rows share, for every base model and draw; every row and draw; the table.

    Args:
        shared: options of all jobs.
        rows: of the table.
        work: the same options as the rows' stages take them.
        shards: as in `features_plan`.
    """
    arrays = features_plan(shared, work.seeds, shards)
    bases = {
        base: list(of)
        for base, of in groupby(sorted(rows, key=lambda row: row.base), lambda row: row.base)
    }
    for base, siblings in bases.items():
        draws = {seed: Work(**{**vars(work), "seeds": [seed]}) for seed in work.seeds}
        arrays.append(
            JobArray(
                base,
                tuple(_shared_job(shared, draw, siblings) for draw in draws.values()),
                ("features",),
            )
        )
        cells = tuple(_row_job(shared, draw, row) for row in siblings for draw in draws.values())
        arrays.append(JobArray(f"rows-{base}", cells, (base,)))
    layout = TablesLayout(shared.artifacts)
    records = [
        Layout(layout.base(row.base), shared.dataset).evaluation(row.name, seed)
        for row in rows
        for seed in work.seeds
    ]
    words = shared.words("tables", *_only(Part.table, rows), seeds=work.seeds)
    table = Job("table", words, lambda: _newer(layout.html, records))
    of_rows = tuple(f"rows-{base}" for base in bases)
    return [*arrays, JobArray("table", (table,), of_rows, at_any_rate=True)]


def _shared_job(shared: Shared, draw: Work, rows: Sequence[TableRow]) -> Job:
    (seed,) = draw.seeds
    steps = draw.shared_steps(rows)

    def is_done() -> bool:
        # Stages that ask a language model for rows of some methods are not told by settings alone.
        if any(draw.asked(step, of, rows) is not None for step, of in steps):
            return False
        return all(shared.are_up_to_date([step], of) for step, of in steps)

    words = shared.words("tables", *_only(Part.shared, rows), seeds=[seed])
    return Job(f"{rows[0].base}-seed{seed}", words, is_done)


def _row_job(shared: Shared, draw: Work, row: TableRow) -> Job:
    (seed,) = draw.seeds
    words = shared.words("tables", *_only(Part.rows, [row]), seeds=[seed])
    steps = draw.own_steps(row)
    return Job(f"{row.name}-seed{seed}", words, lambda: shared.are_up_to_date(steps, row.name))


def _only(part: Part, rows: Sequence[TableRow]) -> list[str]:
    return ["--only", part.value, *(word for row in rows for word in ("--row", row.name))]


def prediction_plan(options: Sequence[str], files: Sequence[str], shards: int) -> list[JobArray]:
    """Images classified in shards, then their table written.

    Args:
        options: of `predict`.
        files: its model and images.
        shards: jobs that share the images.
    """

    def job(name: str, *more: str) -> Job:
        return Job(name, ("predict", *options, *more, "--", *files), lambda: False)

    parts = tuple(
        job(f"shard-{number}", "--shard", f"{number}/{shards}") for number in range(1, shards + 1)
    )
    if shards == 1:
        return [JobArray("predictions", (job("predictions"),))]
    return [JobArray("shards", parts), JobArray("predictions", (job("predictions"),), ("shards",))]


def drawn(shared: Shared, seeds: Sequence[int]) -> list[int]:
    """Few-shot draws, once each; all of the settings if none is given."""
    _, matrix = load_settings(shared.params, shared.dataset, shared.overrides)
    return list(dict.fromkeys(check_seed(seed, "--seed") for seed in seeds or matrix.seeds))


def _newer(page: Path, records: Iterable[Path]) -> bool:
    """Whether a page was written after all records that are there."""
    if not page.is_file():
        return False
    written = page.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns <= written for path in records if path.is_file())
