"""The page: self-contained, escaped, reproducible, and honest about what is missing."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from capt_core.artifacts.report_tables import NEXT_STEPS
from capt_core.reporting import page as page_module
from capt_core.reporting.findings import Findings
from capt_core.reporting.html import packaged_script, script_json
from capt_core.reporting.page import render_page
from tests.reporting.made_findings import (
    HOSTILE,
    Answers,
    draw_images,
    findings,
    random_answers,
    results_of,
    with_everything,
)

NAMES = ("pants", "shorts", "skirt")
# Of the five errors two are repaired, one stays, one moves; one right answer is broken.
BY_HAND = Answers(
    truth=[0, 0, 0, 0, 0, 1, 1, 2, 2, 2],
    before=[1, 1, 1, 2, 0, 1, 0, 2, 2, 2],
    after=[0, 1, 2, 0, 0, 1, 0, 1, 2, 2],
)


class _Elements(HTMLParser):
    """Every start tag with its attributes, and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._hidden = ""

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += " ".join(data.split()) + " "

    def with_attribute(self, name: str, tag: str) -> list[dict[str, str | None]]:
        return [found for each, found in self.elements if each == tag and name in found]


def text_of(page: str) -> str:
    """The visible text with single spaces, none before punctuation."""
    text = " ".join(_Elements(page).text.replace("\N{NO-BREAK SPACE}", " ").split())
    return re.sub(r" ([.,:;)])", r"\1", text)


def data_of(page: str) -> dict[str, Any]:
    """What the script reads of the first data set."""
    found = re.search(r'<script type="application/json" id="d1-data">(.*?)</script>', page, re.S)
    assert found is not None
    return dict(json.loads(found[1]))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Two halves, three seeds, everything that can be shown, with images."""
    names = [f"class {index}" for index in range(9)]
    answers = {seed: random_answers(9, 180, 40, seed, halves=True) for seed in (1, 2, 3)}
    found = with_everything(findings(answers, names=names, halves=True))
    return draw_images(found, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def page(full: Findings) -> str:
    return render_page(results_of(), [full])


def test_page_needs_nothing_but_itself(page: str) -> None:
    elements = _Elements(page).elements
    assert not {tag for tag, _ in elements} & {"link", "iframe", "object", "base", "form"}
    for tag, attributes in elements:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            value = attributes.get(name)
            wanted = ("#", "report/mine/") if tag == "a" else ("data:image/",)
            assert value is None or value.startswith(wanted)
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in page
    assert "@import" not in page


def test_only_its_own_script_may_run(page: str) -> None:
    policies = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    script, source = packaged_script("report.js")
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; img-src data:;")
    assert f"; script-src {source};" in policies[0]
    assert page.count(f"<script>{script}</script>") == 1
    assert not re.search(r"\beval\(|new Function|innerHTML|insertAdjacentHTML", script)


def test_every_image_has_a_description(page: str) -> None:
    images = [attributes for tag, attributes in _Elements(page).elements if tag == "img"]
    assert images
    assert all(attributes.get("alt") for attributes in images)


def test_each_picture_stands_once(page: str) -> None:
    pictures = re.findall(r"UklGR[\w+/=]{40,}", page)
    assert len(pictures) > 40
    assert len(pictures) == len(set(pictures))


def test_no_paths_and_the_same_text_again(page: str, full: Findings, tmp_path: Path) -> None:
    moved = draw_images(full, tmp_path)
    assert render_page(results_of(), [moved]) == page
    assert str(tmp_path.parent) not in page


@pytest.mark.parametrize("halves", [False, True])
def test_cells_hold_every_error(halves: bool) -> None:
    names = [f"class {index}" for index in range(8)]
    given = {seed: random_answers(8, 200, 70, seed, halves=halves) for seed in (1, 2, 3)}
    elements = _Elements(render_page(results_of(), [findings(given, names=names, halves=halves)]))
    wanted: dict[str, Counter[tuple[str, str]]] = {"data-count": Counter(), "data-after": Counter()}
    for answers in given.values():
        assert answers.after is not None
        for key, said in (("data-count", answers.before), ("data-after", answers.after)):
            wanted[key].update(
                (names[truth], names[taken])
                for truth, taken in zip(answers.truth, said, strict=True)
                if truth != taken
            )
    for tag in ("td", "details"):
        cells = elements.with_attribute("data-count", tag)
        for key, counts in wanted.items():
            found = {
                (cell["data-true"], cell["data-taken"]): round(3 * float(cell[key] or 0))
                for cell in cells
            }
            assert {place: count for place, count in found.items() if count} == dict(counts)
    totals = elements.with_attribute("data-total-before", "div")
    assert len(totals) == (2 if halves else 1)
    assert sum(float(each["data-total-before"] or 0) for each in totals) == 70


def test_every_error_is_named_without_the_script() -> None:
    answers = {1: random_answers(8, 200, 70, 1)}
    found = findings(answers, names=[f"class {index}" for index in range(8)])
    listed = set(re.findall(r"<li><code>([^<]+)</code>", render_page(results_of(), [found])))
    assert set(found.errors["path"]) == listed


def test_a_pair_tells_where_its_images_went() -> None:
    text = text_of(render_page(results_of(), [findings({1: BY_HAND}, names=NAMES)]))
    assert "pants taken for shorts 3 before: 1 right now, 1 same error, 1 another error" in text
    assert "another error (mostly skirt) 1 after: 1 same error, 0 newly wrong, 0 moved here" in text
    assert "skirt taken for shorts 0 before 1 after: 0 same error, 1 newly wrong" in text
    assert "pants taken for skirt 1 before: 1 right now" in text
    assert "1 after: 0 same error, 0 newly wrong, 1 moved here" in text


def test_the_summary_in_words() -> None:
    found = findings({1: BY_HAND}, names=NAMES)
    text = text_of(render_page(results_of(), [found]))
    assert "takes 5 of 10 test images for another class" in text
    assert "takes 4 for another class: 2 errors are repaired, 1 right answer is newly" in text
    assert "Errors before 5 50.0 % of 10 test images; 95 % interval 23.7 % to 76.3 %" in text
    assert "+5.0 percentage points (95 % interval +2.0 to +8.0; p < 0.001" in text
    assert "significantly better" in text
    (name, difference), *_ = found.difference.items()
    unclear = {name: replace(difference, p_value=0.4)}
    text = text_of(render_page(results_of(), [replace(found, difference=unclear)]))
    assert "not significant" in text
    assert "p = 0.40" in text


def test_warnings_stand_above_everything(page: str) -> None:
    text = _Elements(page).text
    assert text.index("hardly better than chance") < text.index("Confusion report", 40)
    assert '<p class="banner"' in page[: page.index("<h1>")]


def test_hostile_names_are_text() -> None:
    answers = {1: random_answers(len(HOSTILE), 64, 30, 1)}
    found = with_everything(findings(answers, names=HOSTILE, name="</title><b>x"))
    page = render_page(results_of(), [found])
    elements = _Elements(page)
    tags = Counter(tag for tag, _ in elements.elements)
    assert tags["script"] == 2
    assert tags["b"] == page.count("<b>")
    assert not any(attributes.get("src") == "x" for _, attributes in elements.elements)
    assert "{{ 7 * 7 }}" in elements.text
    assert data_of(page)["names"] == list(HOSTILE)
    assert 'href="report/%3C%2Ftitle%3E%3Cb%3Ex/test_errors.csv"' in page


def test_script_data_cannot_end_its_element() -> None:
    text = script_json({"name": "</script><!--", "more": [1, None]})
    assert "<" not in text
    assert json.loads(text) == {"name": "</script><!--", "more": [1, None]}


def test_base_model_alone_without_confidences_and_images() -> None:
    answers = {1: random_answers(4, 60, 20, 1, repaired=False)}
    found = findings(answers, names=["a", "b", "c", "d"], confidences=False)
    page = render_page(results_of(methods=("clip",)), [found])
    text = text_of(page)
    assert "takes 20 of 60 test images for another class. Nothing was repaired yet." in text
    assert "capt-stage run --until x" in text
    assert "images themselves are not at hand" in text
    assert "Repaired model" not in text
    assert "McNemar" not in text
    rows = data_of(page)["rows"]
    assert {row[3] for row in rows} == {-1}
    assert sum(row[-1] for row in rows) == 20


@pytest.mark.parametrize("repaired", [False, True])
def test_no_errors(repaired: bool) -> None:
    found = findings({1: random_answers(3, 30, 0, 1, repaired=repaired)}, names=NAMES)
    text = text_of(render_page(results_of(), [found]))
    assert "takes 0 of 30 test images" in text
    assert "No test image is taken for another class." in text


def test_no_test_images_of_a_class_and_no_results() -> None:
    found = findings({1: Answers([0, 1], [1, 1], [1, 0])}, names=NAMES)
    page = render_page(results_of().clear(), [found])
    assert "pants taken for shorts" in text_of(page)
    assert "Results as tables" not in page
    assert "nothing to report" in render_page(results_of().clear(), [])


def test_results_come_first_only_where_there_is_much_to_compare(page: str) -> None:
    assert page.index("Results as tables of the field") > page.index('id="d1-runs"')
    found = findings({1: BY_HAND}, names=NAMES)
    more = render_page(results_of(methods=("clip", "capt", "coop")), [found])
    assert more.index('id="results"') < more.index('id="d1-summary"')
    both = render_page(results_of(("mine", "yours")), [found, replace(found, name="yours")])
    assert both.index('id="results"') < both.index('id="d1-summary"')
    assert 'href="#d2"' in both


def test_many_classes_are_restricted_to_the_most_confused() -> None:
    answers = {1: random_answers(80, 800, 200, 1)}
    found = findings(answers, names=[f"class {index}" for index in range(80)])
    page = render_page(results_of(), [found])
    elements = _Elements(page)
    assert "Shown: the 40 of 80 classes" in text_of(page)
    assert len([1 for tag, found in elements.elements if tag == "th" and "data-id" in found]) == 40
    pairs = elements.with_attribute("data-count", "details")
    assert sum(float(pair["data-count"] or 0) for pair in pairs) == 200


def test_pairs_beyond_what_stands_in_the_page_are_left_to_the_script(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page_module, "STATIC_PAIRS", 5)
    monkeypatch.setattr(page_module, "STATIC_FILES", 6)
    found = findings({1: random_answers(8, 200, 70, 1)}, names=[f"c{i}" for i in range(8)])
    page = render_page(results_of(), [found])
    assert len(_Elements(page).with_attribute("data-count", "details")) == 5
    assert len(data_of(page)["pairs"]) == found.pairs.height - 5
    assert f"{found.pairs.height - 5} more pairs in pair_results.csv" in text_of(page)
    assert page.count("<li><code>") == 6
    assert len(data_of(page)["rows"]) == found.errors.height


def test_missing_images_are_counted(full: Findings, tmp_path: Path) -> None:
    moved = draw_images(full, tmp_path)
    for path in full.errors["path"].unique().sort().to_list()[:2]:
        (tmp_path / path).write_bytes(b"no picture")
    assert "2 image files are missing or damaged" in text_of(render_page(results_of(), [moved]))


def test_the_page_stays_small(full: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = len(render_page(results_of(), [replace(full, image_root=None)]).encode())
    monkeypatch.setattr(page_module, "PAGE_BYTES", bare + 12_000)
    page = render_page(results_of(), [full])
    assert len(page.encode()) <= bare + 12_000
    assert re.search(r"\d+ pictures are left out", page)


def test_many_steps_are_folded(full: Findings) -> None:
    row = full.steps.row(0, named=True)
    steps = NEXT_STEPS.frame([row | {"position": position} for position in range(1, 31)])
    page = render_page(results_of(), [replace(full, steps=steps)])
    assert "24 more" in text_of(page)
    assert page.count("Rename the classes") == 30
