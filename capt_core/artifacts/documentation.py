"""``artifacts/README.md``, written from the declarations of the tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl

from capt_core.artifacts.files import write_text
from capt_core.artifacts.schemas import ALL_TABLES
from capt_core.artifacts.tables import Column, Table

_LEAD = """\
# Artifacts

What the stages write. Everything here but this page is git-ignored and tracked by DVC. Tables are
Parquet: `polars.read_parquet(path)` opens them, `capt_core.read_table(path)` checks them as well.
Class names stand beside ids, so no codebook is needed. All ids are 64-bit integers.

Every table and safetensors file carries, in its metadata under the key `capt`, its data set, a
fingerprint of its images and classes, the backbone (name and digest of its weights), the command
and the settings it was made with, digests of the artifacts it was made from, and a digest of its
own content. A stage refuses a file of which one bit has changed, one made from other data, with
another backbone or with other settings than its own, and one made from other artifacts than there
are now, and says which stage to run again. So `--set` is given to every stage from the one that it
concerns on; to earlier ones it need not be given.

This page is written by `make pipeline` from the declarations in `capt_core/artifacts`.
"""

_OTHER_FILES = (
    (
        "code/<command>.txt",
        "the pipeline",
        "source files that a command imports, with their SHA-256; only in a checkout",
    ),
    ("<dataset>/images/", "prepare", "images, only where the project draws them (`proctex`)"),
    (
        "<dataset>/seed<S>/base_model.safetensors",
        "fit-teacher",
        "the base model, as `train` writes models",
    ),
    (
        "<dataset>/seed<S>/prompt_centres.safetensors",
        "cluster-prompts",
        "the centres `commonality` and `difference` of `prompt_clusters`, of unit length, in "
        "cluster order",
    ),
    (
        "<dataset>/seed<S>/<method>/model.safetensors",
        "train",
        "the trained model, for `capt_core.load_model` and `capt-stage predict`: what was learned, "
        "class names, preprocessing, method, settings, provenance; the frozen CLIP is not in it. "
        "Where images of a class are compared with more than its prompt, `class_vectors` holds a "
        "unit-length row for each such class: its prompt's feature plus the weighted mean of its "
        "written difference prompts",
    ),
    ("<dataset>/seed<S>/<method>/plots/loss.csv", "train", "loss by step, for `dvc plots`"),
    ("<dataset>/seed<S>/<method>/metrics.json", "evaluate", "the metrics of `evaluation`"),
    (
        "<dataset>/seed<S>/<method>/plots/confusion.csv",
        "evaluate",
        "true and predicted class of the test images, for `dvc plots`",
    ),
    ("results.csv", "report", "`results` as CSV"),
    ("results.md", "report", "the results as Markdown tables"),
    ("report.html", "report", "the report"),
    (
        "report/<dataset>/<table>.csv",
        "report",
        "each table beside the report as CSV, entries of lists joined by `; `",
    ),
    ("runs/<stage>-<dataset>-...-seed<S>.json", "every stage", "seconds and versions of a run"),
    ("study/<variant>/...", "study", "the same tree for a named variant"),
    ("study/results.parquet", "study-report", "`results` of all variants"),
    ("study/study.md", "study-report", "the study's tables as Markdown"),
    ("study/study.html", "study-report", "the study's page"),
    ("tables/<base>/...", "tables", "the same tree for a base model of the table of all methods"),
    ("tables/table1.{md,csv,html}", "tables", "all methods beside the paper's Table 1"),
    (
        "work/",
        "several stages",
        "what interrupted runs continue from, and caches of frozen tokens and prompt embeddings; "
        "safe to delete",
    ),
)


def render() -> str:
    """The page as Markdown."""
    files = [
        *((table.path, table.stage, f"[{table.name}](#{table.name})") for table in ALL_TABLES),
        *_OTHER_FILES,
    ]
    rows = [(f"`{path}`", stage, meaning) for path, stage, meaning in sorted(files)]
    lines = [_LEAD, *_grid(("file", "written by", "holds"), rows)]
    shown: dict[Sequence[Column], str] = {}
    for table in ALL_TABLES:
        lines += ["", f"## {table.name}", "", f"`{table.path}`. {table.description}"]
        columns = tuple(table.declared)
        if columns in shown:
            lines += ["", f"Columns: as in [{shown[columns]}](#{shown[columns]})."]
            continue
        shown[columns] = table.name
        lines += ["", *_grid(("column", "type", "unit", "meaning"), _column_rows(table))]
        lines += ["", f"A row is identified by {', '.join(f'`{name}`' for name in table.key)}."]
        if table.open:
            lines += ["", "Further columns of type Float64 are what else a method logs."]
    return "\n".join(lines) + "\n"


def _column_rows(table: Table) -> Iterator[tuple[str, ...]]:
    for column in table.declared:
        kind = column.kind
        typed = f"vector of {kind.inner}" if isinstance(kind, pl.Array) else str(kind)
        typed += " or null" * column.nullable + ", optional" * column.optional
        yield f"`{column.name}`", typed, column.unit, column.meaning


def _grid(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells in (titles, ["---"] * len(titles), *rows):
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), render())
