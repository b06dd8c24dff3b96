"""Tool tables: every row of the table of all methods, where it is out of date, and the table."""

from __future__ import annotations

import contextlib
import json as json_format
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
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
from capt_core.params import check_seed, load_settings
from capt_core.reporting.method_table import (
    EFFORT,
    in_words,
    method_table,
    to_html,
    to_markdown,
)

from . import activity, options
from .console import inner_results, result, say, warn
from .describing import describes_names, may_ask
from .invocation import Run, invocation
from .steps import Step, steps_to, was_told
from .updating import bring_up_to_date
from .variation import variation


class Part(StrEnum):
    """What the table is made by, in order; a queue sends them as jobs of their own."""

    shared = "shared"
    rows = "rows"
    table = "table"


@dataclass(frozen=True)
class Work:
    """What all rows of a call share: the options of the command."""

    dataset: str
    seeds: Sequence[int]
    drawn: bool
    params: Path | None
    artifacts: Path
    overrides: list[str]

    @staticmethod
    def of(
        chosen: Sequence[TableRow],
        dataset: str,
        seeds: Sequence[int] | None,
        params: Path | None,
        artifacts: Path,
        overrides: list[str],
    ) -> Work:
        """From the options of the command.

        Raises:
            CaptError: settings, seeds, or a data set or methods that the table is not for.
        """
        settings, matrix = load_settings(params, dataset, overrides)
        if protocol_of(dataset_spec(dataset), settings.data) != BASE_TO_NOVEL:
            raise CaptError(
                f"{dataset}: all classes are trained, and the table compares base with novel ones; "
                f"--set data.protocol={BASE_TO_NOVEL} makes halves"
            )
        check_methods((each.method for each in chosen), "tables")
        check_described((each.method for each in chosen), settings.generate_prompts, dataset)
        drawn = list(dict.fromkeys(check_seed(each, "--seed") for each in seeds or matrix.seeds))
        usual = set(drawn) <= set(matrix.seeds)
        return Work(dataset, drawn, usual, params, artifacts, overrides)

    def shared_steps(self, rows: Sequence[TableRow]) -> list[tuple[Step, str | None]]:
        """Stages that rows of one base model share, each with its variant."""
        steps = steps_to("evaluate", [row.method for row in rows], self.seeds, self.drawn)
        return [
            (step, None if step.stage in FIRST else rows[0].base)
            for step in steps
            if not step.method and step.stage != "report"
        ]

    def own_steps(self, row: TableRow) -> list[Step]:
        """Stages that are run for a row alone."""
        steps = steps_to("evaluate", [row.method], self.seeds, self.drawn)
        return [step for step in steps if step.method]

    def asked(
        self, step: Step, variant: str | None, rows: Sequence[TableRow]
    ) -> dict[str, Any] | None:
        """Options of a step that have a language model describe classes for rows; None: no such."""
        if step.stage != "generate-prompts" or not rows:
            return None
        settings, _ = load_settings(
            self.params, self.dataset, self.overrides, variation(variant).change
        )
        methods = [
            configured_method(
                row.method, self.params, self.dataset, self.overrides, variation(row.name).change
            )
            for row in rows
        ]
        if not may_ask(settings, methods):
            return None
        names = list(dict.fromkeys(row.method for row in rows))
        return {"for_": names, "names": describes_names(methods)}

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


def main(
    dataset: options.Dataset = "proctex",
    method: options.RowMethods = None,
    row: options.Rows = None,
    seed: options.Seeds = None,
    only: Annotated[
        Part | None,
        typer.Option(
            help="Only a part of the work: the stages that rows share, the rows, or the table of "
            "what there is."
        ),
    ] = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    chosen = rows_of(row or (), method or ())
    work = Work.of(chosen, dataset, seed, params, artifacts, list(set_ or ()))
    began = time.monotonic()
    failed = [] if only == Part.table else _in_turn(work, chosen, only)
    if only in (None, Part.table):
        _show(work, chosen, failed, time.monotonic() - began)
    if failed:
        again = command("tables", row=failed)
        raise CaptError(f"{len(failed)} rows failed, see above; to try again, run: {again}")


def _show(work: Work, chosen: Sequence[TableRow], failed: list[str], passed: float) -> None:
    """Write the table, and print its chosen rows."""
    table = _write(work)
    mine = table.filter(pl.col("row").is_in([each.name for each in chosen]))
    layout = TablesLayout(work.artifacts)
    spent = (table["seconds"] * table["seeds"]).sum()
    result(
        {"rows": table.to_dicts(), "trials": trials(), "failed": failed, "page": str(layout.html)},
        *map(in_words, mine.to_dicts()),
        f"{spent:.0f} processor seconds of fitting behind the table, "
        f"{passed:.0f} s of this run -> {layout.markdown}, {layout.html}",
    )


def _in_turn(work: Work, rows: Sequence[TableRow], only: Part | None) -> list[str]:
    """Bring rows up to date one after the other; names of those that failed."""
    siblings: dict[str, list[TableRow]] = {}
    for row in rows:
        siblings.setdefault(row.base, []).append(row)
    failed = []
    begun = set()
    with shared_backbones(), inner_results():
        for each in rows if only != Part.shared else [first for first, *_ in siblings.values()]:
            try:
                if each.base not in begun and only != Part.rows:
                    _bring_shared(work, siblings[each.base])
                    begun.add(each.base)
                if only != Part.shared:
                    _bring_row(work, each)
            except CaptError as error:
                if len(rows) == 1:
                    raise
                warn(f"{each.name}: {error}")
                failed.append(each.name)
            else:
                if only is None and each is not rows[-1]:
                    _tell(_write(work), each)
    return failed


def _bring_shared(work: Work, rows: Sequence[TableRow]) -> None:
    """Run every stage that rows of one base model share, where it is out of date."""
    steps = work.shared_steps(rows)
    # Commands that run side by side share these: one of them does the work, the others wait for it.
    for first, lock in ((True, "shared"), (False, rows[0].base)):
        with _alone(work.lock(lock)):
            for step, variant in steps:
                if (step.stage in FIRST) is first:
                    _bring(work, step, rows[0].base, variant, rows)


def _bring_row(work: Work, row: TableRow) -> None:
    """Run every stage of a row's own, where it is out of date."""
    for step in work.own_steps(row):
        _bring(work, step, row.name, row.name)


FIRST = ("prepare", "extract-features")
"""Stages whose artifacts no change of the table's rows makes different."""


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock in the block, after whoever else holds it."""
    with contextlib.ExitStack() as stack:
        with activity.doing("waiting for another row"):
            stack.enter_context(exclusive(lock, "capt-stage tables", wait=True))
        yield


def _bring(
    work: Work, step: Step, place: str, variant: str | None, rows: Sequence[TableRow] = ()
) -> None:
    """Run a step where it is out of date; classes are described for the methods of `rows`."""
    seed = "" if step.seed is None else f", seed {step.seed}"
    given = work.asked(step, variant, rows)
    bring_up_to_date(
        step,
        f"{place}{seed}: {step.stage}",
        work.dataset,
        work.params,
        work.artifacts,
        work.overrides,
        variant,
        given=given,
        at_once=given is not None,
    )


def _tell(table: pl.DataFrame, row: TableRow) -> None:
    (line,) = table.filter(pl.col("row") == row.name).to_dicts()
    say(in_words(line))


def _write(work: Work) -> pl.DataFrame:
    """Write the table with what there is that was run with these settings."""
    layout = TablesLayout(work.artifacts)
    with _alone(work.lock("table")):
        found = list(_measured(work))
        results = pl.concat([EVALUATION.frame([]), *(frame for frame, _ in found)])
        efforts = pl.DataFrame([effort for _, effort in found], schema=EFFORT)
        table = method_table(results, efforts, list(table_rows().values()))
        write_text(layout.csv, table.write_csv())
        write_text(layout.markdown, to_markdown(table))
        write_text(layout.html, to_html(table))
    return table


def _measured(work: Work) -> Iterator[tuple[pl.DataFrame, dict[str, Any]]]:
    """The evaluation of every row and seed that was run with these settings, and its effort."""
    for row in table_rows().values():
        layout = Layout(TablesLayout(work.artifacts).base(row.base), work.dataset)
        for seed in work.seeds:
            path = layout.evaluation(row.name, seed)
            if not path.is_file():
                continue
            train = work.invocation("train", row, seed)
            evaluate = work.invocation("evaluate", row, seed)
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
