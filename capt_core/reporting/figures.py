"""Figures as SVG: the same input gives the same bytes, whatever matplotlib is set to."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib as mpl
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capt_core.evaluation.metrics import harmonic_mean

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "capt",
    # Text stays text: sharp, searchable, and any script that the reader's fonts cover.
    "svg.fonttype": "none",
    # matplotlib's own font, so that layout does not depend on the machine's fonts.
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.edgecolor": "#8a8f98",
    "axes.linewidth": 0.6,
    "axes.labelcolor": "#333840",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#333840",
    "ytick.color": "#333840",
    "text.color": "#333840",
    "lines.linewidth": 1.1,
    "legend.frameon": False,
    "legend.fontsize": 7.0,
    "legend.handlelength": 1.4,
}

_LONGEST_LABEL = 28
_POINTS = 200
_VIEWER_FONTS = b"system-ui, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"
_SEED_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_EXPERTS = {"sample": "#0072b2", "commonality": "#e69f00", "difference": "#cc3d3d"}


@dataclass(frozen=True)
class Panel:
    """A figure on the page: its title, the SVG, and in words what it means and shows (`alt`)."""

    title: str
    svg: bytes
    meaning: str
    alt: str


def training_curves(logs: Mapping[int, pl.DataFrame]) -> list[Panel]:
    """Panels over training steps, one line per seed.

    Args:
        logs: table `training_log` by seed; logs without rows are skipped.

    Returns:
        Loss, learning rate, and of alpha, expert weights and use, gate entropy and residual gate
        those that were logged; an empty list if nothing was trained.
    """
    drawn = {seed: _thinned(log) for seed, log in sorted(logs.items()) if log.height}
    if not drawn:
        return []

    def by_seed(column: str) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            for colour, (seed, log) in zip(_colours(len(drawn)), drawn.items(), strict=True):
                _plot(axes, log, column, color=colour, label=f"seed {seed}")

        return draw

    def alpha(axes: Axes) -> None:
        for colour, (seed, log) in zip(_colours(len(drawn)), drawn.items(), strict=True):
            _plot(axes, log, "alpha_mean", color=colour, alpha=0.35, linewidth=0.7)
            _plot(axes, log, "alpha_running", color=colour, label=f"seed {seed}")

    def by_expert(what: str, is_share: bool = True) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            for name, colour in _EXPERTS.items():
                for index, log in enumerate(drawn.values()):
                    label = name if index == 0 else "_"
                    column = f"{name}_expert_{what}"
                    _plot(axes, log, column, color=colour, label=label, linewidth=0.9)
            if is_share:
                axes.set_ylim(0, 1)

        return draw

    panels = (
        ("Loss", "over the anchors and representatives of a batch", by_seed("loss")),
        ("Learning rate", "of the optimiser", by_seed("learning_rate")),
        ("Adapter weight α", "batch mean (faint), running mean", alpha),
        ("Expert weights", "mean gate; one line per expert and seed", by_expert("weight")),
        ("Expert use", "share of images the expert is active for", by_expert("share")),
        ("Expert outputs", "mean length of what each expert gives", by_expert("norm", False)),
        ("Common output", "share of it that all images have alike", by_expert("common")),
        ("Gate entropy", "in nats; 0: one expert takes all", by_seed("gate_entropy")),
        ("Residual gate", "share of the experts' output that is added", by_seed("residual_gate")),
    )
    drafts = [(title, meaning, _panel(draw)) for title, meaning, draw in panels]
    return [
        Panel(title, svg, meaning, f"{title} over training steps, {meaning}")
        for title, meaning, svg in drafts
        if svg
    ]


def study_chart(
    labels: Sequence[str], series: Mapping[str, Sequence[tuple[float, float] | None]]
) -> bytes:
    """Accuracies of the rows of a study table, one row of points per label.

    Args:
        labels: of the rows, first on top.
        series: by accuracy, mean and standard deviation of each row in percent, or None.

    Returns:
        An SVG document.
    """
    with _style():
        figure = Figure(figsize=(6.4, 0.7 + 0.3 * len(labels)), layout="constrained")
        axes = figure.add_subplot()
        for (name, values), colour in zip(series.items(), _SEED_COLOURS, strict=False):
            shown = [(row, value) for row, value in enumerate(values) if value is not None]
            axes.errorbar(
                [mean for _, (mean, _) in shown],
                [row for row, _ in shown],
                xerr=[sd for _, (_, sd) in shown],
                fmt="o",
                color=colour,
                label=name,
                markersize=4,
                linewidth=0.9,
            )
        axes.set_yticks(range(len(labels)), [_shortened(label) for label in labels])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel("percent")
        axes.grid(axis="x", color="#e3e6ea", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper right", ncols=len(series))
        return _svg(figure)


@dataclass(frozen=True)
class Point:
    """Accuracies of a method in percent, with their standard deviations over seeds."""

    label: str
    base: float
    base_sd: float
    novel: float
    novel_sd: float


def base_novel_chart(points: Sequence[Point]) -> bytes:
    """Novel over base accuracy, numbered as in the legend, with error bars.

    A dashed line joins the points whose harmonic mean is that of the first point.

    Returns:
        An SVG document.
    """
    with _style():
        figure = Figure(figsize=(7.2, max(3.6, 0.6 + 0.17 * len(points))), layout="constrained")
        axes = figure.add_subplot()
        for number, (point, colour) in enumerate(
            zip(points, _colours(len(points)), strict=True), start=1
        ):
            axes.errorbar(
                point.base,
                point.novel,
                xerr=point.base_sd,
                yerr=point.novel_sd,
                marker=f"${number}$",
                linestyle="none",
                color=colour,
                ecolor=colour,
                elinewidth=0.5,
                markersize=7 if number < 10 else 10,
                markeredgewidth=0.3,
                label=_shortened(point.label),
            )
        left, right, low, high = *axes.get_xlim(), *axes.get_ylim()
        mean = harmonic_mean(points[0].base, points[0].novel)
        line = [
            (base, mean * base / (2 * base - mean))
            for base in (left + (right - left) * part / 100 for part in range(101))
            if 2 * base > mean
        ]
        axes.plot(*zip(*line, strict=True), color="#8a8f98", linestyle="--", linewidth=0.7)
        axes.set_xlim(left, right)
        axes.set_ylim(low, high)
        axes.set_xlabel("base accuracy, percent")
        axes.set_ylabel("novel accuracy, percent")
        axes.grid(color="#e3e6ea", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside right upper")
        return _svg(figure)


def _plot(axes: Axes, log: pl.DataFrame, column: str, **look: Any) -> None:
    """A column of a training log over its steps, if the log holds it."""
    if column in log.columns and log[column].null_count() < log.height:
        axes.plot(log["step"], log[column], **look)


def _panel(draw: Callable[[Axes], None]) -> bytes | None:
    """An SVG document, or None where there is nothing to draw."""
    with _style():
        figure = Figure(figsize=(4.4, 2.5), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        if not axes.lines:
            return None
        axes.set_xlabel("training step")
        axes.margins(x=0.01)
        axes.grid(axis="y", color="#e3e6ea", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        columns = len(axes.get_legend_handles_labels()[1])
        figure.legend(loc="outside upper left", ncols=min(columns, 4))
        return _svg(figure)


def _thinned(log: pl.DataFrame) -> pl.DataFrame:
    """At most `_POINTS` rows: means over equal numbers of successive steps."""
    per_point = -(-log.height // _POINTS)
    return (
        log.sort("step")
        .with_row_index("point")
        .group_by(pl.col("point") // per_point, maintain_order=True)
        .mean()
    )


def _colours(count: int) -> list[str]:
    return [_SEED_COLOURS[index % len(_SEED_COLOURS)] for index in range(count)]


def _shortened(name: str) -> str:
    """A name that fits on an axis: similar names often differ at their ends, so both ends stay."""
    if len(name) <= _LONGEST_LABEL:
        return name
    half = (_LONGEST_LABEL - 1) // 2
    return f"{name[:half].rstrip()}…{name[-half:].lstrip()}"


@contextmanager
def _style() -> Iterator[None]:
    """The report's own look: a reader's matplotlibrc must not change the bytes."""
    with mpl.rc_context(), warnings.catch_warnings():
        # Text is drawn by the viewer, whose fonts may well have what ours lack.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def _svg(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    return re.sub(rb"font-family: [^;\"]+", b"font-family: " + _VIEWER_FONTS, buffer.getvalue())
