"""Tool tables: every row of the table of all methods, where it is out of date, and the table."""

from __future__ import annotations

import contextlib
import json as json_format
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from capt_core.advice import command
from capt_core.artifacts.files import write_text
from capt_core.artifacts.layout import Layout, TablesLayout
from capt_core.artifacts.locks import exclusive
from capt_core.artifacts.schemas import EVALUATION
from capt_core.artifacts.tables import read_provenance, read_table
from capt_core.backbone.loading import shared_backbones
from capt_core.data.protocol import BASE_TO_NOVEL, protocol_of
from capt_core.data.registry import dataset_spec
from capt_core.errors import CaptError
from capt_core.method_table import TableRow, rows_of, table_rows, trials
from capt_core.methods.registry import check_methods, configured_method
from capt_core.methods.suitability import check_described
from capt_core.params import Settings, check_seed, load_settings
from capt_core.reporting.method_table import (
    EFFORT,
    in_words,
    method_table,
    to_html,
    to_markdown,
)

from . import activity, options
from .console import inner_results, output, result, say, warn
from .describing import describes_names, may_ask
from .invocation import Run, invocation
from .steps import Step, steps_to, was_told
from .updating import bring_up_to_date
from .variation import variation

_BETWEEN_LOOKS = 0.2  # seconds


@dataclass(frozen=True)
class _Job:
    """What all rows of a call share: the options of the command."""

    dataset: str
    seeds: Sequence[int]
    drawn: bool
    params: Path | None
    artifacts: Path
    overrides: list[str]

    def invocation(self, stage: str, row: TableRow, seed: int) -> Run:
        return invocation(
            stage,
            self.dataset,
            seed,
            self.params,
            self.artifacts,
            self.overrides,
            row.method,
            row.name,
        )

    def lock(self, what: str) -> Path:
        return self.artifacts / "runs" / f"tables-{self.dataset}-{what}.lock"

    def command(self, row: str) -> list[str]:
        """The command that brings a row up to date."""
        words = [sys.executable, "-m", "stages.cli", "tables", "--row", row]
        words += ["--dataset", self.dataset, "--artifacts", str(self.artifacts)]
        words += [] if self.params is None else ["--params", str(self.params)]
        words += [word for seed in self.seeds for word in ("--seed", str(seed))]
        words += [word for text in self.overrides for word in ("--set", text)]
        flags = {"--quiet": output.quiet, "--verbose": output.verbose}
        return words + [flag for flag, given in flags.items() if given]


def main(
    dataset: options.Dataset = "proctex",
    method: Annotated[
        list[str] | None,
        typer.Option(help="Only the rows of this method. Repeatable; all if not given."),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(help="Only this row of capt_core/tables.yaml. Repeatable."),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Few-shot draw; all `seeds` of the settings if not given. Repeatable."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Rows that are run at once.")] = 1,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    chosen = rows_of(row or (), method or ())
    overrides = list(set_ or ())
    settings, matrix = load_settings(params, dataset, overrides)
    if protocol_of(dataset_spec(dataset), settings.data) != BASE_TO_NOVEL:
        raise CaptError(
            f"{dataset}: all classes are trained, and the table compares base with novel ones; "
            f"--set data.protocol={BASE_TO_NOVEL} makes halves"
        )
    check_methods((each.method for each in chosen), "tables")
    check_described((each.method for each in chosen), settings.generate_prompts, dataset)
    seeds = list(dict.fromkeys(check_seed(each, "--seed") for each in seed or matrix.seeds))
    drawn = set(seeds) <= set(matrix.seeds)
    job = _Job(dataset, seeds, drawn, params, artifacts, overrides)
    began = time.monotonic()
    at_once = min(jobs, len(chosen))
    failed = _side_by_side(job, chosen, at_once) if at_once > 1 else _in_turn(job, chosen)
    table = _write(job)
    mine = table.filter(pl.col("row").is_in([each.name for each in chosen]))
    layout = TablesLayout(artifacts)
    spent = (table["seconds"] * table["seeds"]).sum()
    result(
        {"rows": table.to_dicts(), "trials": trials(), "failed": failed, "page": str(layout.html)},
        *map(in_words, mine.to_dicts()),
        f"{spent:.0f} processor seconds of fitting behind the table, "
        f"{time.monotonic() - began:.0f} s of this run -> {layout.markdown}, {layout.html}",
    )
    if failed:
        again = command("tables", row=failed)
        raise CaptError(f"{len(failed)} rows failed, see above; to try again, run: {again}")


def _in_turn(job: _Job, rows: Sequence[TableRow]) -> list[str]:
    """Bring rows up to date one after the other; names of those that failed."""
    failed = []
    with shared_backbones(), inner_results():
        for each in rows:
            try:
                _bring_row(job, each)
            except CaptError as error:
                if len(rows) == 1:
                    raise
                warn(f"{each.name}: {error}")
                failed.append(each.name)
            else:
                if each is not rows[-1]:
                    _tell(_write(job), each)
    return failed


def _side_by_side(job: _Job, rows: Sequence[TableRow], count: int) -> list[str]:
    """The same, several at once, each in a process of its own."""
    waiting = list(rows)
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed = []
    try:
        while waiting or running:
            while waiting and len(running) < count:
                name = waiting.pop(0).name
                # Results are this command's; the rows' own lines are progress.
                running[name] = subprocess.Popen(job.command(name), stdout=sys.stderr.fileno())
            with activity.doing(f"rows {', '.join(running)}; {len(waiting)} to come"):
                time.sleep(_BETWEEN_LOOKS)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                if running.pop(name).returncode:
                    failed.append(name)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return failed


def _bring_row(job: _Job, row: TableRow) -> None:
    """Run every stage that a row needs, where it is out of date."""
    steps = steps_to("evaluate", [row.method], job.seeds, job.drawn)
    steps = [step for step in steps if step.stage != "report"]
    shared = [step for step in steps if not step.method]
    # Rows that run side by side share these: one of them does the work, the others wait for it.
    with _alone(job.lock("shared")):
        for step in shared:
            if step.stage in _FIRST:
                _bring(job, step, row.name, None)
    with _alone(job.lock(row.base)):
        for step in shared:
            if step.stage not in _FIRST:
                _bring(job, step, row.base, row.base, row)
    for step in steps:
        if step.method:
            _bring(job, step, row.name, row.name)


_FIRST = ("prepare", "extract-features")
"""Stages whose artifacts no change of the table's rows makes different."""


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock in the block, after whoever else holds it."""
    with contextlib.ExitStack() as stack:
        with activity.doing("waiting for another row"):
            stack.enter_context(exclusive(lock, "capt-stage tables", wait=True))
        yield


def _bring(
    job: _Job, step: Step, place: str, variant: str | None, row: TableRow | None = None
) -> None:
    """Run a step where it is out of date; classes are described for the row's method."""
    seed = "" if step.seed is None else f", seed {step.seed}"
    change = variation(variant).change
    settings, _ = load_settings(job.params, job.dataset, job.overrides, change)
    given = None
    if step.stage == "generate-prompts" and row is not None:
        given = _asked(job, settings, row)
    bring_up_to_date(
        step,
        f"{place}{seed}: {step.stage}",
        job.dataset,
        job.params,
        job.artifacts,
        job.overrides,
        variant,
        given=given,
        at_once=given is not None,
    )


def _asked(job: _Job, settings: Settings, row: TableRow) -> dict[str, Any] | None:
    """Options of generate-prompts that have a language model asked what a row's method needs."""
    change = variation(row.name).change
    method = configured_method(row.method, job.params, job.dataset, job.overrides, change)
    if not may_ask(settings, [method]):
        return None
    return {"for_": [row.method], "names": describes_names([method])}


def _tell(table: pl.DataFrame, row: TableRow) -> None:
    (line,) = table.filter(pl.col("row") == row.name).to_dicts()
    say(in_words(line))


def _write(job: _Job) -> pl.DataFrame:
    """Write the table with what there is that was run with these settings."""
    layout = TablesLayout(job.artifacts)
    with _alone(job.lock("table")):
        found = list(_measured(job))
        results = pl.concat([EVALUATION.frame([]), *(frame for frame, _ in found)])
        efforts = pl.DataFrame([effort for _, effort in found], schema=EFFORT)
        table = method_table(results, efforts, list(table_rows().values()))
        write_text(layout.csv, table.write_csv())
        write_text(layout.markdown, to_markdown(table))
        write_text(layout.html, to_html(table))
    return table


def _measured(job: _Job) -> Iterator[tuple[pl.DataFrame, dict[str, Any]]]:
    """The evaluation of every row and seed that was run with these settings, and its effort."""
    for row in table_rows().values():
        layout = Layout(TablesLayout(job.artifacts).base(row.base), job.dataset)
        for seed in job.seeds:
            path = layout.evaluation(row.name, seed)
            if not path.is_file():
                continue
            train = job.invocation("train", row, seed)
            evaluate = job.invocation("evaluate", row, seed)
            if not (was_told(train, "train") and was_told(evaluate, "evaluate")):
                continue
            # What is damaged or of an earlier base model is made again when its row is asked for.
            with contextlib.suppress(CaptError):
                results = read_table(EVALUATION, path)
                layout.check_digests(read_provenance(path).inputs, "")
                yield results, {"row": row.name, "seed": seed, **_effort(train)}


def _effort(run: Run) -> dict[str, Any]:
    try:
        noted = json_format.loads(run.record_path("effort", ".json").read_text(encoding="utf-8"))
        return {"parameters": noted["parameters"], "seconds": noted["processor_seconds"]}
    except (OSError, ValueError, KeyError):
        return {"parameters": None, "seconds": None}
