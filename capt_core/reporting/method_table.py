"""All methods beside the paper's Table 1: as CSV, Markdown and a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from capt_core.method_table import TableRow, trials
from capt_core.methods.registry import method_class, method_names
from capt_core.reporting.figures import Point, base_novel_chart
from capt_core.reporting.html import page_template
from capt_core.reporting.study import measure
from capt_core.study import Row

INDUCTIVE = "inductive"
TRANSDUCTIVE = "transductive"
NOT_FITTED = "not fitted"

_MEASURES = {
    "base": "base_accuracy",
    "novel": "novel_accuracy",
    "hm": "harmonic_mean",
    "corrected": "test_correction_rate",
    "broken": "broken_rate",
}
_PAPER = ("paper_base", "paper_novel", "paper_hm")

COLUMNS: dict[str, Any] = {
    "row": pl.String,
    "label": pl.String,
    "method": pl.String,
    "base_model": pl.String,
    "tuned": pl.Boolean,
    "dataset": pl.String,
    "block": pl.String,
    "seeds": pl.Int64,
    **{f"{name}{part}": pl.Float64 for name in _MEASURES for part in ("", "_sd")},
    "parameters": pl.Int64,
    "seconds": pl.Float64,
    "sees": pl.String,
    **dict.fromkeys(_PAPER, pl.Float64),
}
"""Columns of the CSV: accuracies and shares in percent, mean and population standard deviation over
the seeds; `seconds` of processor time, of fitting for one seed."""

EFFORT = {"row": pl.String, "seed": pl.Int64, "parameters": pl.Int64, "seconds": pl.Float64}
"""Columns of what the fits of the rows took."""

_BLOCKS = {
    INDUCTIVE: (
        "Inductive",
        "No image of a novel class is seen before the test.",
    ),
    TRANSDUCTIVE: (
        "Transductive, or fitted on novel images",
        "These rows see images of the novel classes before the test, unlabelled or labelled (see "
        "the column Sees): they cannot be compared with the inductive ones.",
    ),
    NOT_FITTED: ("Not fitted yet", ""),
}


def block_of(sees: str) -> str:
    """`TRANSDUCTIVE` where what a run saw includes images of novel classes, else `INDUCTIVE`.

    Args:
        sees: as evaluation records list it, entries joined by "; ".
    """
    return TRANSDUCTIVE if any(map(_of_novel_images, sees.split("; "))) else INDUCTIVE


def _of_novel_images(entry: str) -> bool:
    words = set(re.findall(r"[a-z]+", entry.lower()))
    if not words & {"image", "images"}:
        return False
    every = {"all", "classes"} <= words or "unlabelled" in words
    return "novel" in words or (every and "base" not in words)


def method_table(
    results: pl.DataFrame, efforts: pl.DataFrame, rows: Sequence[TableRow]
) -> pl.DataFrame:
    """One line per row with `COLUMNS`; null where it was not fitted.

    Args:
        results: rows of the table `results` with the row's name in `variant`.
        efforts: what the fits took, with the columns of `EFFORT`.
        rows: declared rows, in order.
    """
    return pl.DataFrame([_line(results, efforts, row) for row in rows], schema=COLUMNS)


def _line(results: pl.DataFrame, efforts: pl.DataFrame, row: TableRow) -> dict[str, Any]:
    found = measure(results, Row(row.label, row.name, row.method))
    mine = results.filter(pl.col("variant") == row.name)
    line: dict[str, Any] = {
        "row": row.name,
        "label": row_label(row),
        "method": row.method,
        "base_model": row.change.get("fit_teacher", {}).get("method", "clip"),
        "tuned": row.tuned,
        "dataset": ", ".join(mine["dataset"].unique().sort()) or None,
        "block": NOT_FITTED,
        "seeds": mine["seed"].n_unique(),
    }
    if row.paper is not None:
        line |= dict(zip(_PAPER, row.paper, strict=True))
    if "base_accuracy" not in found:
        return line
    for name, metric in _MEASURES.items():
        if (value := found.get(metric)) is not None:
            line |= {name: round(value.mean, 4), f"{name}_sd": round(value.sd, 4)}
    if row.method == line["base_model"] and not row.tuned:
        line |= {"corrected": None, "corrected_sd": None, "broken": None, "broken_sd": None}
    took = efforts.filter(pl.col("row") == row.name)
    seconds = took["seconds"].drop_nulls().to_list()
    sees = "; ".join(mine["sees"].unique(maintain_order=True))
    return line | {
        "parameters": took["parameters"].max(),
        "seconds": round(sum(seconds) / len(seconds), 2) if seconds else None,
        "sees": sees,
        "block": block_of(sees),
    }


def row_label(row: TableRow) -> str:
    """Text of the first column; the name where the method is not installed here."""
    known = row.method in method_names()
    label = row.label or (method_class(row.method).label if known else row.name)
    return f"{label}, tuned" if row.tuned else label


def lead(table: pl.DataFrame) -> str:
    """What the table was measured on and how to read it."""
    seeds = _most_seeds(table)
    dataset = ", ".join(table["dataset"].drop_nulls().unique().sort()) or "no data set"
    text = (
        f"Base-to-novel on {dataset}, {_seeds(seeds)}; percent, mean ± population standard "
        "deviation over the seeds. The harmonic mean (HM) is that of the averaged accuracies. "
        "Corrected and broken: shares of the test images that the row's base model (CLIP, unless "
        "the label says otherwise) has wrong and right, in both halves. Seconds: processor time of "
        "fitting one seed, the base model's own not counted. The paper's numbers are of other "
        "data: averages over eleven data sets of photographs, with a ViT-B/16."
    )
    if table["tuned"].any():
        text += (
            f" Tuned rows have the best of {trials()} learning rates, as many for every method, "
            "chosen on folds of base classes of another drawing of the data set."
        )
    return text


def _most_seeds(table: pl.DataFrame) -> int:
    return max(table["seeds"].to_list(), default=0)


HEADINGS = (
    *("", "Base", "Novel", "HM", "Paper: base / novel / HM", "Parameters", "Seconds"),
    *("Corrected", "Broken", "Sees"),
)


def cells(line: dict[str, Any]) -> list[str]:
    """A line of `method_table` as text, under `HEADINGS`."""
    accuracies = [_spread(line, name) for name in ("base", "novel", "hm")]
    printed = [f"{line[name]:.2f}" for name in _PAPER if line[name] is not None]
    effort = [
        "–" if line["parameters"] is None else f"{line['parameters']:,}",
        "–" if line["seconds"] is None else f"{line['seconds']:.1f}",
    ]
    changes = [
        "–" if line[name] is None else f"{line[name]:.1f}" for name in ("corrected", "broken")
    ]
    paper = " / ".join(printed) or "–"
    return [line["label"], *accuracies, paper, *effort, *changes, line["sees"] or "–"]


def _spread(line: dict[str, Any], name: str) -> str:
    if line[name] is None:
        return "–"
    return f"{line[name]:.2f} ± {line[f'{name}_sd']:.2f}"


def in_words(line: dict[str, Any]) -> str:
    """A line of `method_table` as one line of text."""
    if line["base"] is None:
        return f"{line['label']}: not fitted yet"
    shown = cells(line)
    words = f"{shown[0]}: base {shown[1]}, novel {shown[2]}, HM {shown[3]}"
    return f"{words} ({_seeds(line['seeds'])}); {shown[6]} s a fit, {shown[5]} parameters"


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _sections(table: pl.DataFrame) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Title, remark and lines of every block that has some, tuned rows in blocks of their own."""
    most = _most_seeds(table)
    for block, (title, remark) in _BLOCKS.items():
        for tuned in (False, True):
            lines = table.filter(block=block, tuned=tuned).to_dicts()
            for line in lines:
                if 0 < line["seeds"] < most:
                    line["label"] += f" ({line['seeds']} of {most} seeds)"
            if lines:
                yield title + ", learning rate tuned" * tuned, remark, lines


def to_markdown(table: pl.DataFrame, heading: str = "# Methods beside the paper's Table 1") -> str:
    """The table as Markdown, in its blocks."""
    parts = [heading, "", lead(table)]
    level = "#" * (heading.count("#", 0, 6) + 1)
    for title, remark, lines in _sections(table):
        parts += ["", f"{level} {title}", ""]
        parts += [remark, ""] if remark else []
        parts += [f"| {' | '.join(HEADINGS)} |", "|---|" + "---:|" * (len(HEADINGS) - 2) + "---|"]
        parts += [f"| {' | '.join(cells(line))} |" for line in lines]
    return "\n".join(parts) + "\n"


def to_html(table: pl.DataFrame) -> str:
    """The same with a picture of each block, as a page that needs nothing but itself."""
    shown = []
    frozen = next(iter(table.filter(pl.col("row") == "clip").to_dicts()), None)
    for number, (title, remark, lines) in enumerate(_sections(table)):
        drawn = [line for line in lines if line["base"] is not None]
        if frozen and frozen["base"] is not None and frozen not in drawn and drawn:
            drawn = [frozen, *drawn]
        points = [
            Point(line["label"], *(line[each] for each in ("base", "base_sd", "novel", "novel_sd")))
            for line in drawn
        ]
        shown.append(
            {
                "anchor": f"block-{number}",
                "title": title,
                "source": "",
                "headings": HEADINGS,
                "rows": [cells(line) for line in lines],
                "chart": base_novel_chart(points) if points else None,
                "alt": "Novel over base accuracy of the rows, with standard deviations; the line "
                "joins equal harmonic means, through the first row",
                "before": remark,
                "texts": [],
            }
        )
    heading = "Methods beside the paper's Table 1"
    return page_template("study.html.jinja").render(heading=heading, lead=lead(table), tables=shown)
