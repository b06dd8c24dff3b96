"""The speed benchmark runs through and compares what it says it compares."""

from __future__ import annotations

import pytest

from benchmarks.capt_speed import (
    Bench,
    Measurement,
    measure_inference,
    measure_steps,
    parse,
    to_markdown,
)
from capt_core.methods.capt.views import asked_views

SHORT = ("--backbone", "tiny-clip", "--turns", "1", "--steps", "1", "--inference-turns", "2")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    options = parse([*SHORT, "--batch", "2", "--pairs", "1", "--inference-batch", "2"])
    return Bench(options, tmp_path_factory.mktemp("bench"))


def test_presets_are_those_of_the_settings(bench: Bench) -> None:
    paper, fast = (bench.settings(preset, 3) for preset in ("paper", "fast"))
    assert bench.model(paper).first_adapted == 0
    assert bench.model(fast).first_adapted > 0
    assert (paper.train.batch_size, paper.train.epochs) == (2, 3)
    # Four images, one view of each.
    assert len(asked_views(bench.anchors(fast.adapter), fast.train)) == 4


def test_measurements_have_the_length_asked_for(bench: Bench) -> None:
    steps, rates = measure_steps(bench), measure_inference(bench)
    assert {name: len(seconds) for name, seconds in steps.items()} == {"paper": 1, "fast": 1}
    assert {len(values) for values in rates.values()} == {2}
    assert all(value > 0 for values in (*steps.values(), *rates.values()) for value in values)


def test_report_compares_within_turns(bench: Bench) -> None:
    measured = Measurement(
        step_seconds={"paper": [0.4, 0.2, 0.3], "fast": [0.03, 0.03, 0.06]},
        step_bytes={"paper": 400 * 2**20, "fast": 100 * 2**20},
        cached_per_second=[10.0, 30.0, 20.0],
        images_per_second={"plain CLIP": [100.0, 50.0], "paper": [90.0, 40.0]},
    )
    text = to_markdown(measured, bench)
    assert "| `paper` | 300.0 | 1.000 | 400 | 1.000 |" in text
    assert "| `fast` | 30.0 | 0.100 | 100 | 0.250 |" in text
    assert "caches 20.0 views/s" in text
    # 90 and 80 % within their turns, not 65 of 75 images/s.
    assert "| CAPT `paper` | 65.0 | 85.0% | 80.0% to 90.0% |" in text
