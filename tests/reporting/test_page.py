"""The page: self-contained, escaped, reproducible, and honest about what is missing."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from capt_core.backbone.loading import UNTRAINED_WARNING
from capt_core.reporting.confusions import (
    change,
    confused_pairs,
    half_confusion,
    most_confused_classes,
)
from capt_core.reporting.examples import pair_examples
from capt_core.reporting.html import thumbnail
from capt_core.reporting.inputs import (
    EMBEDDED_NOTE,
    not_averaged,
    notes_by_dataset,
)
from capt_core.reporting.page import render_page
from capt_core.reporting.summary import summarise
from tests.refusals import refusal
from tests.reporting.report_inputs import TEACHER, dataset_report, pets_results, predictions


class _Elements(HTMLParser):
    """Every start tag with its attributes, and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += " ".join(data.split()) + " "


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    report = dataset_report(tmp_path_factory.mktemp("images"))
    return render_page(summarise(pets_results()), [report])


def test_page_needs_nothing_but_itself(page: str) -> None:
    elements = _Elements(page).elements
    assert not {tag for tag, _ in elements} & {"script", "link", "iframe", "object", "base"}
    for tag, attributes in elements:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            value = attributes.get(name)
            wanted = ("#",) if tag == "a" else ("data:image/",)
            assert value is None or value.startswith(wanted)
    assert "url(" not in page
    assert "@import" not in page


def test_embedded_figures_refer_to_nothing_outside(page: str) -> None:
    figures = re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", page)
    assert len(figures) == 2 * 3 + 7
    for figure in figures:
        svg = base64.b64decode(figure).decode()
        assert not re.search(r'href="(?!#|data:)', svg)


def test_every_image_has_a_description(page: str) -> None:
    images = [attributes for tag, attributes in _Elements(page).elements if tag == "img"]
    assert images
    assert all(attributes.get("alt") for attributes in images)


def test_class_names_are_escaped(page: str) -> None:
    assert "<b>fox</b>" not in page
    assert "&lt;b&gt;fox&lt;/b&gt;" in page


def test_no_paths_and_the_same_text_from_another_folder(page: str, tmp_path: Path) -> None:
    again = render_page(summarise(pets_results()), [dataset_report(tmp_path)])
    assert again == page
    assert str(tmp_path.parent) not in page


def test_results_and_pairs_are_shown(page: str) -> None:
    text = _Elements(page).text
    for wanted in ("60.00", "+10.00", "−1.50", "33.25", "settings1", "backbone1", "fingerprint1"):
        assert wanted in text
    assert "66.7 % of the errors corrected: 2 of 3" in text
    assert "33.3 % of the right answers broken: 1 of 3" in text
    assert "2 of 4 test images, 50.0 %" in text
    assert "CAPT: right in 2 of 2 runs" in text
    assert "CAPT: right in 0 of 2 runs" in text


def test_notes(page: str, tmp_path: Path) -> None:
    assert UNTRAINED_WARNING not in _Elements(page).text
    report = dataset_report(tmp_path, untrained=True, embedded=True)
    text = _Elements(render_page(summarise(pets_results()), [report])).text
    assert text.index(UNTRAINED_WARNING) < text.index(EMBEDDED_NOTE) < text.index("60.00")
    assert notes_by_dataset([report]) == {"pets": [UNTRAINED_WARNING, EMBEDDED_NOTE]}
    assert not_averaged([report, replace(report, name="x", untrained=False, embedded=False)]) == [
        "pets"
    ]


def test_one_seed_and_an_empty_bank(tmp_path: Path) -> None:
    report = dataset_report(tmp_path, seeds=(1,), bank=False)
    text = _Elements(render_page(summarise(pets_results()), [report])).text
    assert "Confusion bank: 0 misclassified" in text
    assert "also taken for" not in text
    assert "right in 1 of 1 run" in text


def test_the_base_model_is_named(tmp_path: Path) -> None:
    report = replace(dataset_report(tmp_path), base_model="coop")
    text = _Elements(render_page(summarise(pets_results()), [report])).text
    assert "Base model: CoOp" in text
    assert "Before: CoOp" in text


def test_base_model_alone(tmp_path: Path) -> None:
    report = dataset_report(tmp_path, capt=False)
    results = pets_results().filter(pl.col("method") == "clip")
    text = _Elements(render_page(summarise(results), [report])).text
    assert "Nothing was trained." in text
    assert "No run of CAPT" in text
    assert "After: CAPT" not in text


def test_a_faultless_base_model(tmp_path: Path) -> None:
    report = dataset_report(tmp_path)
    perfect = predictions([(key, split, true, true) for key, split, true, _ in TEACHER])
    seed = replace(report.seeds[0], base_predictions=perfect)
    report = replace(report, seeds=[seed], runs=[replace(report.runs[0], predictions=perfect)])
    text = _Elements(render_page(summarise(pets_results()), [report])).text
    assert text.count("The base model makes no mistake here.") == 2


def test_no_data_sets() -> None:
    assert "No results yet." in render_page(summarise(pets_results().clear()), [])


def test_missing_image_is_named(tmp_path: Path) -> None:
    report = dataset_report(tmp_path)
    (tmp_path / "10.png").unlink()
    assert "10.png" in refusal(render_page, summarise(pets_results()), [report])


def test_pairs_and_changes_by_hand(tmp_path: Path) -> None:
    report = dataset_report(tmp_path)
    half = half_confusion(report, "base")
    assert half.before.tolist() == [[2, 2], [1, 1]]
    assert half.after is not None
    assert half.after.tolist() == [[3, 1], [1, 1]]
    first, second = confused_pairs(half, 5)
    assert (first.true_name, first.taken_id, first.before, first.after) == ("cat", 1, 2, 1)
    assert (first.rate_before, first.rate_after) == (50.0, 25.0)
    assert (second.true_id, second.before, second.images) == (1, 1, 2)
    found = change(report, "base")
    assert found is not None
    assert (found.wrong_before, found.corrected, found.broken, found.wrong_after) == (3, 2, 1, 2)


def test_most_confused_classes_come_with_their_partners(tmp_path: Path) -> None:
    half = half_confusion(dataset_report(tmp_path), "base")
    before = pl.DataFrame(
        [[9, 0, 0, 1], [0, 9, 5, 0], [0, 0, 9, 0], [0, 0, 0, 9]], orient="row"
    ).to_numpy()
    four = replace(
        half,
        class_ids=[0, 1, 2, 3],
        names=["a", "b", "c", "d"],
        images=before.sum(axis=1),
        before=before.astype(float),
        after=None,
    )
    assert most_confused_classes(four, 4) == [0, 1, 2, 3]
    assert most_confused_classes(four, 3) == [1, 2]
    assert four.restricted([1, 2]).before.tolist() == [[9, 5], [0, 9]]


def test_examples_mix_bank_and_test_images(tmp_path: Path) -> None:
    report = dataset_report(tmp_path)
    pair = confused_pairs(half_confusion(report, "base"), 1)[0]
    bank, *test = pair_examples(report, pair)
    assert bank.sample.path == "0.png"
    assert bank.representative is not None
    assert (bank.representative.path, bank.representative.class_name) == ("1.png", "cat")
    assert (bank.confidence, bank.true_confidence) == (75.0, 12.5)
    assert [example.sample.path for example in test] == ["10.png", "11.png"]
    assert [example.representative for example in test] == [None, None]
    assert bank.taken_for is not None
    assert bank.taken_for.path == "2.png"  # recognised for what it is


def test_thumbnails(tmp_path: Path) -> None:
    for name, size in (("small.png", (64, 70)), ("photo.png", (400, 300))):
        Image.new("RGB", size, "red").save(tmp_path / name)
    small, photo = thumbnail(tmp_path / "small.png"), thumbnail(tmp_path / "photo.png")
    assert (small.side, small.pixelated, photo.side, photo.pixelated) == (64, True, 160, False)
    for shown in (small, photo):
        content = base64.b64decode(shown.uri.split(",")[1])
        assert Image.open(BytesIO(content)).size == (shown.side, shown.side)
