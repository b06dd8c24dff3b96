"""The page in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starlette.types import ASGIApp

from capt_core.methods.trained import TrainedModel
from capt_core.serving import answers
from capt_core.serving.access import LOOPBACK, Hosts
from capt_core.serving.answers import Answer, Answerer, Guess, Told
from capt_core.serving.app import build_app
from capt_core.serving.companions import Companions
from capt_core.serving.uploads import Limits, Upload
from tests.browser import OpenPage, Scheme
from tests.serving.conftest import MOST, listening_on, png

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDE = "w" * 60


@pytest.fixture
def url(app: ASGIApp) -> Iterator[str]:
    with listening_on(app) as found:
        yield found


def wait_for_answer(page: Page) -> str:
    page.locator("#answer").wait_for(state="visible")
    return page.locator("#prediction").inner_text()


def fits(page: Page) -> bool:
    """Whether nothing stands out to the right of the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_chosen_file_is_answered(
    browser_page: OpenPage,
    url: str,
    answerer: Answerer,
    photograph: Path,
    width: int,
    scheme: Scheme,
) -> None:
    page = browser_page(width, 800, scheme)
    page.goto(url)
    assert fits(page)
    assert answers.EMBEDDED_WARNING in page.locator(".banner").inner_text()
    page.set_input_files("#file", photograph)
    answer = answerer.answer(Upload(photograph.read_bytes()))
    assert answer.second is not None
    assert wait_for_answer(page) == answer.prediction
    assert page.locator("#confidence").inner_text() == f"{100 * answer.confidence:.1f} %"
    assert page.locator("#second").inner_text() == answer.second.name
    assert page.locator("#base-line").is_hidden() == (answer.base_prediction is None)
    assert page.locator("#unsure").is_hidden()
    assert page.locator("#top tr").count() == 4
    cards = page.locator("#told article").all_inner_texts()
    assert answer.told[0].texts[0] in cards[0]
    assert f"What tells it from {answer.second.name}" in cards[0]
    # Fails for an image that cannot be shown.
    page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
    assert page.locator("#told img").count() == 2
    assert page.locator("#photo-name").inner_text() == "my photograph.png"
    assert fits(page)
    colours = page.evaluate(
        "[document.body, document.querySelector('#prediction')]"
        ".map((each, index) => getComputedStyle(each)[index ? 'color' : 'backgroundColor'])"
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours]
    assert (brightness[0] < brightness[1]) == (scheme == "dark")


def test_a_dropped_and_a_pasted_file_are_answered(browser_page: OpenPage, url: str) -> None:
    page = browser_page(1200, 800, "light")
    page.goto(url)
    for event, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """([event, holder, bytes]) => {
                const files = new DataTransfer();
                const content = new Uint8Array(bytes);
                files.items.add(new File([content], `${event}.png`, {type: "image/png"}));
                const kind = event === "drop" ? DragEvent : ClipboardEvent;
                document.body.dispatchEvent(
                    new kind(event, {[holder]: files, bubbles: true, cancelable: true}));
            }""",
            [event, holder, list(png())],
        )
        wait_for_answer(page)
        page.get_by_text(f"{event}.png", exact=True).wait_for()


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_is_enough(
    browser_page: OpenPage, url: str, photograph: Path, key: str
) -> None:
    page = browser_page(400, 800, "light")
    # Playwright catches choosers from the first listener on, but does not wait until it does.
    page.on("filechooser", lambda _: None)
    page.goto(url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert (
        page.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"
    )
    with page.expect_file_chooser() as chooser:
        page.keyboard.press(key)
    chooser.value.set_files(photograph)
    wait_for_answer(page)
    assert page.evaluate("document.activeElement.id") == "prediction"


def test_bad_files_are_refused_in_words(browser_page: OpenPage, url: str, tmp_path: Path) -> None:
    page = browser_page(400, 800, "dark")
    page.goto(url)
    for name, content, told in (
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a drawing (SVG)"),
        ("large.png", bytes(MOST + 1), "more than the 0.2 MB"),
        ("empty.png", b"", "empty"),
    ):
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#file", tmp_path / name)
        page.get_by_role("alert").filter(has_text=told).wait_for()
        assert page.locator("#answer").is_hidden()
        assert fits(page)
    (tmp_path / "good.png").write_bytes(png())
    page.set_input_files("#file", tmp_path / "good.png")
    wait_for_answer(page)
    assert page.get_by_role("alert").is_hidden()


def test_a_service_that_has_ended_is_named(
    browser_page: OpenPage, app: ASGIApp, photograph: Path
) -> None:
    page = browser_page(400, 800, "light")
    with listening_on(app) as url:
        page.goto(url)
    page.set_input_files("#file", photograph)
    page.get_by_role("alert").filter(has_text="cannot be reached").wait_for()


def test_names_are_text_and_the_base_model_is_told(
    browser_page: OpenPage,
    model: TrainedModel,
    photograph: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hostile = "<img src=x onerror=document.title='run'>"
    answerer = Answerer(model, Companions())
    answer = Answer(
        prediction=hostile,
        confidence=0.5,
        second=Guess(name=WIDE, confidence=0.25),
        base_prediction=WIDE,
        base_confidence=0.75,
        changed=True,
        unsure=True,
        top=[Guess(name=hostile, confidence=0.5), Guess(name=WIDE, confidence=0.25)],
        told=[
            Told(name=name, source=answers.CLASS_TEXT, texts=[name], pictures=[], captions=[])
            for name in (hostile, WIDE)
        ],
        warning=None,
    )
    monkeypatch.setattr(answerer, "answer", lambda *_: answer)
    page = browser_page(400, 800, "light")
    with listening_on(build_app(answerer, Hosts(LOOPBACK), Limits(MOST))) as url:
        page.goto(url)
        title = page.title()
        page.set_input_files("#file", photograph)
        assert wait_for_answer(page) == hostile
        told = page.locator("#base-line").inner_text()
        assert told == f"The base model would have said: {WIDE}, 75.0 %."
        assert page.locator("#unsure").is_visible()
        assert "No example images" in page.locator("#pair").inner_text()
        assert fits(page)
        assert page.title() == title
        assert page.locator("article img").count() == 0
