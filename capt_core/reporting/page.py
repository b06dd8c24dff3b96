"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from capt_core.methods.registry import BASE_METHOD
from capt_core.reporting.confusions import (
    GROUPS,
    HalfConfusion,
    change,
    confused_pairs,
    half_confusion,
    most_confused_classes,
)
from capt_core.reporting.examples import pair_examples
from capt_core.reporting.figures import (
    LARGEST_AXIS,
    SMALL_AXIS,
    Panel,
    change_heatmap,
    confusion_heatmap,
    training_curves,
)
from capt_core.reporting.html import page_template, thumbnail
from capt_core.reporting.inputs import SHOWN_METHOD, DatasetReport
from capt_core.reporting.summary import in_words, method_name, result_tables

_LEAST_SCALE = 1.0  # percent; keeps the colour scale of a faultless model from collapsing


def render_page(summary: pl.DataFrame, datasets: Sequence[DatasetReport], pairs: int = 6) -> str:
    """Render the report.

    Args:
        summary: from `summarise`.
        datasets: what is shown of each data set, in this order.
        pairs: most confused pairs shown with example images, per half.

    Returns:
        An HTML document without scripts or outside references. Equal inputs give equal text.

    Raises:
        CaptError: an example image is missing or not readable.
    """
    template = page_template(
        "report.html.jinja",
        count=_count,
        in_words=in_words,
        method_name=lambda method: method_name(method, ""),
        signed=_signed,
        thumbnail=thumbnail,
    )
    return template.render(
        tables=result_tables(summary),
        sections=[
            _section(dataset, f"dataset-{number}", pairs)
            for number, dataset in enumerate(datasets, start=1)
        ],
        shown_name=method_name(SHOWN_METHOD, ""),
    )


def _section(report: DatasetReport, anchor: str, pairs: int) -> dict[str, Any]:
    """A data set on the page."""
    halves = (half_confusion(report, group) for group in GROUPS)
    return {
        "report": report,
        "anchor": anchor,
        "facts": _facts(report),
        "halves": [_half(report, half, pairs) for half in halves if half.names],
        "curves": training_curves({run.seed: run.training_log for run in report.shown_runs}),
        "runs": sorted(
            report.runs, key=lambda run: (run.method != BASE_METHOD, run.method, run.seed)
        ),
    }


def _facts(report: DatasetReport) -> list[str]:
    seeds = sorted({run.seed for run in report.runs} | {seed.seed for seed in report.seeds})
    shots = f"{report.shots} images per class" if report.shots else "the whole training split"
    base = method_name(report.base_model, "")
    facts = [
        f"Base model: {base}",
        f"Protocol: {in_words(report.protocol).lower()}",
        f"Training images: {shots}",
    ]
    if seeds:
        facts.append(f"Seeds: {', '.join(map(str, seeds))}")
    sizes = [
        str(seed.bank["sample_id"].n_unique())
        for seed in sorted(report.seeds, key=lambda seed: seed.seed)
    ]
    if sizes:
        facts.append(f"Confusion bank: {', '.join(sizes)} misclassified training images")
    return facts


def _half(report: DatasetReport, half: HalfConfusion, pairs: int) -> dict[str, Any]:
    """One half of a data set's classes."""
    positions = most_confused_classes(half, LARGEST_AXIS)
    found = confused_pairs(half, pairs)
    rates = [rate for pair in found for rate in (pair.rate_before, pair.rate_after)]
    return {
        "group": half.group,
        "class_count": len(half.names),
        "change": change(report, half.group),
        "panels": _heatmaps(half.restricted(positions), method_name(report.base_model, "")),
        "wide": len(positions) > SMALL_AXIS,  # room for the heatmaps' many classes
        "omitted": _omitted(half, positions),
        "pairs": [(pair, pair_examples(report, pair)) for pair in found],
        # The rate, in percent, that fills a bar.
        "scale": max([_LEAST_SCALE, *(rate for rate in rates if rate is not None)]),
    }


def _heatmaps(half: HalfConfusion, base: str) -> list[Panel]:
    before = half.rates(half.before)
    after = None if half.after is None else half.rates(half.after)
    scale = _largest(before if after is None else np.stack([before, after]))
    shown = method_name(SHOWN_METHOD, "")
    panels = [_rates_panel(half, f"Before: {base}", "test images", before, scale)]
    if after is not None:
        panels.append(
            _rates_panel(half, f"After: {shown}", "test images, mean over seeds", after, scale)
        )
        difference = after - before
        svg = change_heatmap(difference, half.names, _largest(np.abs(difference)))
        panels.append(
            Panel(
                "Change",
                svg,
                "blue became rarer, red more frequent",
                f"Heatmap of the change in confusion rates, {half.group} classes",
            )
        )
    return panels


def _rates_panel(
    half: HalfConfusion, title: str, meaning: str, rates: np.ndarray, scale: float
) -> Panel:
    alt = f"Confusion heatmap, {half.group} classes. {title}."
    if np.nan_to_num(rates).any():
        row, column = np.unravel_index(np.nanargmax(rates), rates.shape)
        alt += (
            f" Most frequent: {half.names[row]} taken for {half.names[column]},"
            f" {rates[row, column]:.0f} %."
        )
    return Panel(title, confusion_heatmap(rates, half.names, scale), meaning, alt)


def _omitted(half: HalfConfusion, positions: Sequence[int]) -> str:
    if len(positions) == len(half.names):
        return ""
    errors, kept = (_errors(part) for part in (half, half.restricted(positions)))
    return (
        f"Shown: the {len(positions)} of {len(half.names)} classes that are confused most; "
        f"{100 * kept / errors:.0f} % of the base model's errors are among them."
        if errors
        else f"Shown: {len(positions)} of {len(half.names)} classes."
    )


def _errors(half: HalfConfusion) -> float:
    return float(half.before.sum() - np.trace(half.before))


def _largest(values: np.ndarray) -> float:
    return max(float(np.nan_to_num(values).max(initial=0)), _LEAST_SCALE)


def _count(value: float) -> str:
    """A number of images; a mean over seeds may be no whole number."""
    return f"{value:.0f}" if round(value, 1).is_integer() else f"{value:.1f}"


def _signed(value: float, digits: int = 2) -> str:
    """A number with its sign and a real minus; no sign for what rounds to zero."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")
