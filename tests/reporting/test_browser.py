"""The page in a browser: by mouse, by keyboard, without its script, at two widths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from capt_core.reporting.page import render_page
from tests.browser import OpenPage
from tests.reporting.made_findings import (
    HOSTILE,
    draw_images,
    findings,
    random_answers,
    results_of,
    with_everything,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = [f"class {index}" for index in range(6)]
ANSWERS = random_answers(6, 120, 40, 1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report with pictures."""
    folder = tmp_path_factory.mktemp("report")
    found = with_everything(findings({1: ANSWERS}, names=NAMES))
    found = draw_images(found, folder / "images")
    (folder / "report.html").write_text(render_page(results_of(), [found]), encoding="utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report on classes with hostile names."""
    names = list(HOSTILE)
    found = with_everything(findings({1: random_answers(len(names), 80, 30, 1)}, names=names))
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    path.write_text(render_page(results_of(), [found]), encoding="utf-8")
    return path.as_uri()


def opened(browser_page: OpenPage, address: str, width: int = 1200, **further: str) -> Page:
    page = browser_page(width, 900, "dark" if further.get("dark") else "light")
    page.goto(address)
    return page


def wrong(true_id: int, taken_id: int, said: list[int]) -> set[str]:
    """Files of images of a class that were taken for another."""
    return {
        f"class {true_id}/{index}.png"
        for index, (truth, answer) in enumerate(zip(ANSWERS.truth, said, strict=True))
        if (truth, answer) == (true_id, taken_id)
    }


def files(page: Page, where: str) -> set[str]:
    found = page.locator(f"{where} .card").evaluate_all("all => all.map(e => e.dataset.file)")
    return set(found)


def test_a_cell_opens_its_images(browser_page: OpenPage, plain: str) -> None:
    page = opened(browser_page, plain)
    cell = page.locator('td[data-true="class 0"][data-taken="class 1"]')
    panel = page.locator("[data-matrix] aside")
    assert not panel.is_visible()
    cell.click()
    assert "class 0 taken for class 1" in panel.inner_text()
    before = wrong(0, 1, list(ANSWERS.before))
    assert before
    assert files(page, "[data-matrix] aside") == before
    assert cell.get_attribute("data-count") == str(len(before))
    assert panel.locator("img.picture").first.evaluate("e => e.naturalWidth") == 24
    page.get_by_role("button", name="Repaired model").click()
    cell.click()
    assert ANSWERS.after is not None
    assert files(page, "[data-matrix] aside") == wrong(0, 1, list(ANSWERS.after))
    page.locator("button[data-mode=change]").click()
    cell.click()
    both = before | wrong(0, 1, list(ANSWERS.after))
    assert files(page, "[data-matrix] aside") == both


def test_every_cell_shows_as_many_images_as_it_counts(browser_page: OpenPage, plain: str) -> None:
    page = opened(browser_page, plain)
    shown = 0
    for cell in page.locator("td[data-count]").all():
        cell.click()
        count = len(files(page, "[data-matrix] aside"))
        assert str(count) == cell.get_attribute("data-count")
        shown += count
    assert shown == 40


def test_the_keyboard_is_enough(browser_page: OpenPage, plain: str) -> None:
    page = opened(browser_page, plain)
    page.locator("table.cells td[tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label.startswith("class 0 taken for class 2")
    assert page.locator("table.cells td[tabindex='0']").count() == 1
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert files(page, "[data-matrix] aside") == wrong(0, 1, list(ANSWERS.before))
    assert page.evaluate("document.activeElement.closest('aside') !== null")
    page.keyboard.press("Escape")
    assert not page.locator("[data-matrix] aside").is_visible()
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label.startswith("class 0 taken for class 1")


def test_hover_tells_the_numbers(browser_page: OpenPage, plain: str) -> None:
    page = opened(browser_page, plain)
    page.locator('td[data-true="class 0"][data-taken="class 1"]').hover()
    count = len(wrong(0, 1, list(ANSWERS.before)))
    assert f"class 0 taken for class 1: {count} of 20 images" in page.locator(".tip").inner_text()


def test_pairs_can_be_searched_ordered_and_opened(browser_page: OpenPage, plain: str) -> None:
    page = opened(browser_page, plain)
    pairs = page.locator("details.pair:visible")
    total = pairs.count()
    page.get_by_label("Search").fill("CLASS 0 5")
    told = pairs.evaluate_all("all => all.map(e => [e.dataset.true, e.dataset.taken].join())")
    assert told
    assert {*told} <= {"class 0,class 5", "class 5,class 0"}
    page.get_by_label("Search").fill("nothing like it")
    assert pairs.count() == 0
    page.get_by_label("Search").fill("")
    assert pairs.count() == total
    page.get_by_label("Order").select_option("repaired")
    repaired = pairs.evaluate_all("all => all.map(e => +e.dataset.repaired)")
    assert repaired == sorted(repaired, reverse=True)
    closed = page.locator("details.pair[data-repaired='1']:not([open])").first
    pair = page.locator(f"#{closed.get_attribute('id')}")
    pair.locator("summary").click()
    pair.locator(".card").first.wait_for()
    count = pair.locator(".card[data-file]").count()
    assert count == len({*files(page, f"#{pair.get_attribute('id')}")})
    for choice in pair.locator(".filters button").all()[1:]:
        outcome, _, wanted = choice.inner_text().rpartition(" ")
        choice.click()
        assert pair.locator(".chip").all_inner_texts() == [outcome] * int(wanted)


def test_file_names_and_commands_are_copied(browser_page: OpenPage, plain: str) -> None:
    page = opened(browser_page, plain)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("td[data-count]").first.click()
    card = page.locator("[data-matrix] aside .card").first
    card.get_by_role("button", name="Copy file name").click()
    card.get_by_text("Copied").wait_for()
    file = page.evaluate("navigator.clipboard.readText()")
    assert file == card.get_attribute("data-file")
    page.get_by_role("button", name="Copy command").first.click()
    page.locator(".steps").get_by_text("Copied").wait_for()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == "capt-stage prompts --dataset mine --pair 1"


def test_classes_are_sorted(browser_page: OpenPage, plain: str) -> None:
    page = opened(browser_page, plain)
    cells = page.locator("table.classes tbody td:nth-child(4)")
    page.get_by_role("button", name="After", exact=True).click()
    shares = [float(text.split("\N{NO-BREAK SPACE}")[0]) for text in cells.all_inner_texts()]
    assert shares == sorted(shares)
    assert len({*shares}) > 1


def test_the_map_shows_photographs(browser_page: OpenPage, plain: str) -> None:
    page = opened(browser_page, plain)
    page.locator("svg.map").focus()
    page.keyboard.press("ArrowRight")
    tip = page.locator(".tip")
    assert tip.locator("img").count() == 1
    assert "taken for" in tip.inner_text()
    page.keyboard.press("Enter")
    panel = page.locator(".map + aside")
    assert panel.locator(".card").count() == 1
    page.keyboard.press("Escape")
    assert not panel.is_visible()
    page.locator("[data-map-class]").select_option("2")
    assert page.locator("svg.map g[data-class]:visible").count() == 1


def test_a_step_leads_to_its_pair(browser_page: OpenPage, plain: str) -> None:
    page = opened(browser_page, plain)
    page.locator(".steps a[href^='#d1-']").nth(1).click()
    target = page.evaluate("location.hash")
    pair = page.locator(f"details{target}")
    page.wait_for_function("e => e.open && e.querySelector('.card')", arg=pair.element_handle())


@pytest.mark.parametrize("width", [400, 1200])
def test_no_sideways_scrolling(
    browser_page: OpenPage, plain: str, hostile: str, width: int
) -> None:
    for address in (plain, hostile):
        page = opened(browser_page, address, width)
        page.locator("td[data-count]").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_hostile_names_do_nothing(browser_page: OpenPage, hostile: str) -> None:
    page = opened(browser_page, hostile)
    messages: list[str] = []
    page.on("dialog", lambda dialog: messages.append(dialog.message))
    page.on("console", lambda message: messages.append(message.text))
    page.reload()
    for cell in page.locator("td[data-count]").all()[:6]:
        cell.click()
    for summary in page.locator("details.pair > summary").all()[1:6]:
        summary.click()
    assert page.locator("img[src=x]").count() == 0
    name = page.locator("th[data-id='0']").get_attribute("title")
    assert name == HOSTILE[0]
    assert messages == []


def test_the_page_reads_without_its_script(browser: Browser, plain: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 400, "height": 900})
    try:
        page = context.new_page()
        page.goto(plain)
        assert page.locator("td[data-count]").first.is_visible()
        pair = page.locator("details.pair").first
        assert pair.locator("img").first.is_visible()
        assert pair.locator("li code").first.is_visible()
        assert page.locator("svg.map").is_visible()
        assert page.locator("button:visible, select:visible, input:visible").count() == 0
        assert page.locator("body").evaluate("e => e.scrollWidth") <= 400
    finally:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser_page: OpenPage, plain: str, scheme: str) -> None:
    """Text against its own background: at least 4.5 to 1 (WCAG AA)."""
    page = opened(browser_page, plain, dark="yes" if scheme == "dark" else "")
    page.locator("td[data-count]").first.click()
    assert page.evaluate(_LOW_CONTRAST) == []


def test_it_can_be_printed(browser_page: OpenPage, plain: str, tmp_path: Path) -> None:
    page = opened(browser_page, plain)
    printed = page.pdf()
    assert printed.startswith(b"%PDF")
    page.emulate_media(media="print")
    # Headings that sort are buttons; all others are gone.
    headings = page.locator("table.sortable th button")
    assert page.locator("button:visible").count() == headings.count() > 0
    assert headings.first.is_visible()
    # On paper nobody switches between the models: cells show both.
    cell = page.locator("td[data-count]").first
    assert cell.locator(".b").is_visible()
    assert cell.locator(".a").is_visible()
    assert not cell.locator(".c").is_visible()


_LOW_CONTRAST = """() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    brush.clearRect(0, 0, 1, 1);
    for (const colour of colours) { brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1); }
    return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
  };
  const light = ([r, g, b]) => 0.2126 * r + 0.7152 * g + 0.0722 * b;
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.closest("script, svg, option")) continue;
    if (node.closest('[style*="opacity"], [data-count="0"], [data-after="0"]')) continue;
    const grounds = [];
    for (let up = node; up; up = up.parentElement) {
      grounds.unshift(getComputedStyle(up).backgroundColor);
    }
    const ground = light(paint(grounds));
    const text = light(paint([...grounds, getComputedStyle(node).color]));
    const ratio = (Math.max(ground, text) + 0.05) / (Math.min(ground, text) + 0.05);
    if (ratio < 4.5) poor.push(`${node.tagName} ${node.textContent.trim().slice(0, 30)} ${ratio}`);
  }
  return [...new Set(poor)].slice(0, 8);
}"""
