"""Figures: reproducible, and unimpressed by odd names and sizes."""

from __future__ import annotations

from xml.etree import ElementTree

import matplotlib as mpl
import polars as pl

from capt_core.reporting.figures import study_chart, training_curves
from tests.reporting.report_inputs import training_log


def _texts(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_same_input_same_bytes_whatever_matplotlib_is_set_to() -> None:
    logs = {1: training_log(7), 2: training_log(7)}
    first = training_curves(logs)
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.facecolor": "red"}):
        second = training_curves(logs)
    assert first == second
    assert b"<dc:date>" not in first[0].svg
    assert mpl.__version__.encode() not in first[0].svg


def test_similar_long_names_stay_apart() -> None:
    names = [f"Aston Martin Vantage Convertible Roadster {year}" for year in (2011, 2012)]
    texts = _texts(study_chart(names, {"Base": [(50.0, 1.0), None]}))
    assert {text[-4:] for text in texts if "…" in text} == {"2011", "2012"}


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
