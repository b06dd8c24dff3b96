"""Figures: reproducible, and unimpressed by odd names and sizes."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest

from capt_core.reporting.figures import (
    Matrix,
    change_heatmap,
    confusion_heatmap,
    training_curves,
)
from tests.reporting.report_inputs import training_log


def _rates(count: int) -> Matrix:
    rates = np.random.default_rng(0).uniform(0, 30, (count, count))
    np.fill_diagonal(rates, np.nan)
    return rates


def _texts(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_same_input_same_bytes_whatever_matplotlib_is_set_to() -> None:
    names = ["a", "b", "c"]
    logs = {1: training_log(7), 2: training_log(7)}
    first = confusion_heatmap(_rates(3), names, 30), training_curves(logs)
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.facecolor": "red"}):
        second = confusion_heatmap(_rates(3), names, 30), training_curves(logs)
    assert first == second
    assert b"<dc:date>" not in first[0]
    assert mpl.__version__.encode() not in first[0]


def test_class_names_are_text_and_nothing_else() -> None:
    names = ["<b>x</b>", "$\\alpha$ & co", "漢字"]
    texts = _texts(confusion_heatmap(_rates(3), names, 30))
    assert all(texts.count(name) == 2 for name in names)


def test_similar_long_names_stay_apart() -> None:
    names = [f"Aston Martin Vantage Convertible Roadster {year}" for year in (2011, 2012)]
    texts = _texts(confusion_heatmap(_rates(2), names, 30))
    assert {text[-4:] for text in texts if "…" in text} == {"2011", "2012"}


@pytest.mark.parametrize("count", [1, 2, 21, 40])
def test_any_number_of_classes(count: int) -> None:
    names = [f"class {index}" for index in range(count)]
    rates = _rates(count)
    for svg in (confusion_heatmap(rates, names, 30), change_heatmap(rates - 15, names, 15)):
        assert _texts(svg).count("class 0") == 2


def test_figures_to_be_compared_have_equal_axes_and_scale() -> None:
    names = ["a", "b", "c"]
    strong, weak = (confusion_heatmap(_rates(3) / part, names, 30) for part in (1, 10))
    place = re.compile(rb'<image .*?transform="([^"]+)"', re.DOTALL)
    assert place.findall(strong)[0] == place.findall(weak)[0]
    assert [t for t in _texts(strong) if t.endswith("0")][-3:] == ["10", "20", "30"]
    assert [t for t in _texts(weak) if t.endswith("0")][-3:] == ["10", "20", "30"]


def test_cells_show_their_rate_with_a_real_minus() -> None:
    change = np.array([[np.nan, -12.4], [2.0, np.nan]])
    texts = _texts(change_heatmap(change, ["a", "b"], 13))
    assert "−12" in texts
    assert "+2" not in texts  # too small to be worth a number


def test_curves_of_every_seed() -> None:
    curves = training_curves({2: training_log(300), 1: training_log(1)})
    titles = [curve.title for curve in curves]
    assert titles[:2] == ["Loss", "Learning rate"]
    assert {"seed 1", "seed 2"} <= set(_texts(curves[0].svg))
    for title in ("Expert weights", "Expert use"):
        shown = curves[titles.index(title)]
        assert {"sample", "commonality", "difference"} <= set(_texts(shown.svg))


def test_what_was_not_logged_has_no_curve() -> None:
    log = training_log(5)
    alone = log.select("step", "epoch", "learning_rate", "loss", "gate_entropy")
    titles = [curve.title for curve in training_curves({1: alone})]
    assert titles == ["Loss", "Learning rate", "Gate entropy"]
    empty = log.with_columns(pl.lit(None, pl.Float64).alias("gate_entropy"))
    assert "Gate entropy" not in [curve.title for curve in training_curves({1: empty})]


def test_long_logs_are_thinned() -> None:
    short, long = (training_curves({1: training_log(steps)})[0].svg for steps in (200, 4000))
    assert len(long) < 1.2 * len(short)


def test_nothing_trained_no_curves() -> None:
    assert training_curves({1: training_log(0)}) == []
