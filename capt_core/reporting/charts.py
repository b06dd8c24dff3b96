"""Small drawings as SVG elements of the page, which takes their colours from its style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import polars as pl

SIDE = 1000
"""Units per side of the map."""

MOST_POINTS = 10_000

_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a5195", "#8c564b")
_GOLDEN_ANGLE = 137.508


@dataclass(frozen=True)
class MapClass:
    """The points of one class as SVG path data: all of them, and those that are errors."""

    class_id: int
    name: str
    colour: str
    points: str
    errors: str


@dataclass(frozen=True)
class Chart:
    """A line through points of the reliability diagram, as SVG path data, and its markers."""

    model: str
    path: str
    markers: Sequence[tuple[float, float, float]]


def class_colour(position: int, count: int) -> str:
    """Colours that colour-blind people tell apart for few classes; hues apart for many."""
    if count <= len(_PALETTE):
        return _PALETTE[position]
    return f"hsl({position * _GOLDEN_ANGLE % 360:.0f} 55% {(46, 58)[position % 2]}%)"


def map_points(image_map: pl.DataFrame, wrong: pl.DataFrame) -> pl.DataFrame:
    """Whole coordinates, y downwards, of at most `MOST_POINTS` images; errors go in first.

    Args:
        image_map: table `image_map`.
        wrong: has the `sample_id` of every image that is an error.

    Returns:
        `path`, `class_id`, `class_name`, `px`, `py`, `wrong`.
    """
    points = (
        image_map.with_columns(
            pl.col("sample_id").is_in(wrong["sample_id"].unique().to_list()).alias("wrong"),
            (SIDE * pl.col("x").fill_nan(0.5).clip(0, 1)).round().cast(pl.Int64).alias("px"),
            (SIDE * (1 - pl.col("y").fill_nan(0.5).clip(0, 1))).round().cast(pl.Int64).alias("py"),
        )
        .sort("sample_id")
        .select("path", "class_id", "class_name", "px", "py", "wrong")
    )
    if points.height <= MOST_POINTS:
        return points
    right = points.filter(~pl.col("wrong"))
    errors = points.filter("wrong").head(MOST_POINTS)
    room = MOST_POINTS - errors.height
    step = -(-right.height // room) if room else right.height + 1
    return pl.concat([errors, right.gather_every(step).head(room)])


def map_classes(points: pl.DataFrame) -> list[MapClass]:
    """The drawing of `map_points`, by class."""
    ids = points["class_id"].unique().sort().to_list()
    parts = points.partition_by("class_id", as_dict=True)
    return [
        MapClass(
            class_id,
            str(parts[class_id,]["class_name"][0]),
            class_colour(position, len(ids)),
            _dots(parts[class_id,]),
            _dots(parts[class_id,].filter("wrong")),
        )
        for position, class_id in enumerate(ids)
    ]


def reliability_charts(reliability: pl.DataFrame) -> list[Chart]:
    """Accuracy over confidence in a square of 100 units, y downwards; markers grow with images."""
    charts = []
    for model in reliability["model"].unique(maintain_order=True).to_list():
        bins = reliability.filter((pl.col("model") == model) & (pl.col("images") > 0))
        bins = bins.sort("lower")
        total = max(1, int(bins["images"].sum()))
        points = [
            (round(100 * confidence, 1), round(100 * (1 - accuracy), 1), images)
            for confidence, accuracy, images in bins.select(
                "confidence", "accuracy", "images"
            ).iter_rows()
        ]
        path = "M" + "L".join(f"{x} {y}" for x, y, _ in points) if points else ""
        markers = [(x, y, round(1 + 4 * sqrt(images / total), 1)) for x, y, images in points]
        charts.append(Chart(str(model), path, markers))
    return charts


def _dots(points: pl.DataFrame) -> str:
    """Path data whose line caps are the points."""
    return "".join(f"M{x} {y}h0" for x, y in points.select("px", "py").iter_rows())
