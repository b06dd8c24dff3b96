"""The page's sentences and numbers: what was found, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from capt_core.evaluation.intervals import wilson_interval
from capt_core.reporting.findings import Findings, PairedDifference

SIGNIFICANT = 0.05

PAIR_COUNTS = (
    "before",
    "after",
    "repaired",
    "same_error",
    "another_error",
    "newly_wrong",
    "moved_here",
)
"""Columns of `pair_results` that are numbers of images."""

ACTIONS = {
    "check_labels": "Check the labels",
    "rename_classes": "Rename or merge the classes",
    "choose_model": "Choose another model",
    "repair": "Try the repair",
    "write_prompts": "Write prompts that tell them apart",
    "add_photographs": "Add photographs",
    "nothing": "Nothing to do",
}

GROUPS = {"base": "Base classes", "novel": "Novel classes", "all": "All classes"}
MODELS = {"base": "base model", "repaired": "repaired model", "calibrated": "repaired, calibrated"}


@dataclass(frozen=True)
class Share:
    """A number of images of a total, with the ends of the 95 % interval of its share."""

    value: float
    total: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """The numbers of one half of the classes, means over seeds; None without a repaired model."""

    group: str
    title: str
    classes: int
    images: int
    before: Share
    after: Share | None
    repaired: Share | None
    newly_wrong: Share | None
    same_error: float | None
    another_error: float | None
    difference: PairedDifference | None
    verdict: str
    seeds: Sequence[Mapping[str, Any]]


def summaries(findings: Findings) -> list[Summary]:
    """One summary per half of the classes, in the order of the table."""
    groups = findings.summary["group"].unique(maintain_order=True).to_list()
    return [_summary(findings, group, alone=len(groups) == 1) for group in groups]


def share(value: float, total: float) -> Share:
    """A share with its 95 % Wilson interval; of nothing it is anything."""
    if total <= 0:
        return Share(value, total, 0.0, 1.0)
    return Share(value, total, *wilson_interval(min(1.0, value / total), round(total) or 1))


def verdict(difference: PairedDifference | None) -> str:
    """Whether a difference is more than chance, in words."""
    if difference is None:
        return ""
    if difference.p_value < SIGNIFICANT:
        better = "better" if difference.value > 0 else "worse"
        return f"The repaired model is significantly {better}: this is more than chance."
    return "The difference is not significant: it may be chance. More test images would tell."


def pieces_of_advice(steps: pl.DataFrame) -> list[dict[str, Any]]:
    """The table `next_steps` as a list to work off: each advice once, with all pairs it is for.

    Where nothing is to be done comes last, as one.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in steps.sort(pl.col("action") == "nothing", "position").iter_rows(named=True):
        action, idle = row["action"], row["action"] == "nothing"
        key = (action,) if idle else (action, row["reason"], row["command"])
        entry = found.setdefault(
            key,
            {
                "action": action,
                "title": ACTIONS.get(action, action.replace("_", " ").capitalize()),
                "reason": "" if idle else row["reason"],
                "command": row["command"],
                "pairs": [],
            },
        )
        entry["pairs"].append(row)
    return [*found.values()]


def worst_pairs(pairs: pl.DataFrame, limit: int = 3) -> list[dict[str, Any]]:
    """The pairs that the base model confuses most, as the page's first lines name them."""
    return pairs.filter(pl.col("before") > 0).head(limit).to_dicts()


def precisions(precision: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows of the table `precision`, their models in words."""
    return [
        row | {"model": MODELS.get(row["model"], row["model"])}
        for row in precision.iter_rows(named=True)
    ]


def count(value: float) -> str:
    """A number of images; a mean over seeds may be no whole number."""
    return f"{value:,.0f}" if round(float(value), 1).is_integer() else f"{value:,.1f}"


def exact(value: float) -> str:
    """A number of images for programs that add them up: no separators, four decimals at most."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def percent(value: float, digits: int = 1) -> str:
    """A share as percent."""
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return signed(100 * value, 1)


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign and a real minus; no sign for what rounds to zero."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def p_value(value: float) -> str:
    """A p value as it is written."""
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def _summary(findings: Findings, group: str, alone: bool) -> Summary:
    rows = findings.summary.filter(pl.col("group") == group).sort("seed")
    images = int(rows["images"][0])
    means = {name: rows[name].drop_nulls().mean() for name in rows.columns if name != "group"}

    def mean(name: str) -> float | None:
        value = means[name]
        return float(value) if isinstance(value, int | float) else None

    before = mean("errors_before") or 0.0
    after, repaired, newly = (mean(name) for name in ("errors_after", "repaired", "newly_wrong"))
    difference = findings.difference.get(group)
    return Summary(
        group,
        GROUPS["all"] if alone else GROUPS.get(group, group),
        int(rows["classes"][0]),
        images,
        share(before, images),
        None if after is None else share(after, images),
        None if repaired is None else share(repaired, before),
        None if newly is None else share(newly, images - before),
        mean("same_error"),
        mean("another_error"),
        difference,
        verdict(difference),
        rows.to_dicts(),
    )
