"""The pages in a real browser: desktop and phone, light and dark, with harmless and hostile texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune.report.page import report_page
from tests.conftest import thorough
from tests.report.made import HOSTILE, make_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 360, "height": 740}}
NAMES = ("calm", "hostile", "bare", "compared")

# Elements that overflow the window to the right, except those that scroll in their own box, or are clipped by an SVG.
SPILT = """() => [...document.querySelectorAll("body *")]
    .filter((each) => !each.closest(".scroll, svg, .hidden, .skip"))
    .filter((each) => each.getBoundingClientRect().right > innerWidth + 1 || each.getBoundingClientRect().left < -1)
    .map((each) => each.outerHTML.slice(0, 120))"""

WORDLESS = """() => [...document.querySelectorAll("img, svg, [role=img], .scroll")]
    .filter((each) => !(each.getAttribute("aria-label") || each.getAttribute("alt") || "").trim())
    .map((each) => each.outerHTML.slice(0, 120))"""

# The contrast of each text with its background, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
FAINT = """() => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => numbers(colour).slice(0, 3).map((value) => value / 255)
        .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (each) => {
        const colour = getComputedStyle(each).backgroundColor;
        return numbers(colour)[3] === 0 && each.parentElement ? ground(each.parentElement) : colour;
    };
    const contrast = (each) => {
        const style = getComputedStyle(each);
        const pair = [light(each.closest("svg") ? style.fill : style.color), light(ground(each))].sort((a, b) => b - a);
        return (pair[0] + 0.05) / (pair[1] + 0.05);
    };
    return [...document.querySelectorAll("body *")]
        .filter((each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()))
        .filter((each) => each.checkVisibility() && !each.matches("script, title, .shape") && contrast(each) < 4.5)
        .map((each) => `${contrast(each).toFixed(2)} ${each.outerHTML.slice(0, 120)}`);
}"""


@contextmanager
def opened(browser: Browser, path: Path, size: str = "desktop", **options: Any) -> Iterator[Page]:
    """Open a page from the disk; it must load nothing and print nothing to the console."""
    said: list[str] = []
    context = browser.new_context(viewport=SIZES[size], **options)
    try:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        page.goto(path.as_uri())
        yield page
        assert said == [path.as_uri()]
        assert page.title() != "broken"
    finally:
        context.close()


# Each page, size and set of colors at least once; all of their combinations are in `make test-all`.
QUICK = [("calm", "desktop", "light"), ("hostile", "phone", "dark"), ("bare", "desktop", "dark"),
         ("compared", "phone", "light")]  # fmt: skip
VIEWS = list(product(NAMES, SIZES, ("light", "dark")))


@pytest.mark.parametrize(("name", "size", "colours"), [view if view in QUICK else thorough(*view) for view in VIEWS])
def test_a_page_is_readable(browser: Browser, pages: dict[str, Path], name: str, size: str, colours: str) -> None:
    with opened(browser, pages[name], size, color_scheme=colours) as page:
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
        assert page.evaluate(SPILT) == []
        assert page.evaluate(WORDLESS) == []
        assert page.evaluate(FAINT) == []
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
        assert len(ids) == len(set(ids))


def test_the_headline_is_visible_without_scrolling(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["calm"], "phone") as page:
        words = page.locator(".words").first
        assert words.inner_text() == "▲ Better: +0.081 nDCG@10, certain"
        box = words.bounding_box()
        assert box and box["y"] + box["height"] < SIZES["phone"]["height"]
        card = page.locator(".verdict").first.inner_text()
        assert "0.412 → to 0.493" in " ".join(card.split())
        for said in ("+0.061 to +0.101", "120 won", "40 lost", "90 tied", "Certainly worse: recall@1 -0.030"):
            assert said in card


def test_hostile_texts_show_as_texts(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["hostile"]) as page:
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
        shown = page.locator("#examples").inner_text()
        for text in (HOSTILE[number] for number in (0, 1, 2, 3, 4, 9)):
            assert " ".join(text.split()) in shown
        assert HOSTILE[6] in shown and HOSTILE[7] in shown
        assert "אבג" in shown and "\u202e" not in page.content()
        assert page.locator("script").count() == 1
        # A right-to-left text does not change the direction of the text around it.
        assert page.evaluate("[...document.querySelectorAll('bdi')].every((each) => each.dir === 'auto')")


def test_examples_are_searched(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["calm"]) as page:
        form, examples = page.locator("#examples .search"), page.locator("#examples [data-item]:visible")
        assert form.locator("output").inner_text() == "20 of 20"
        changes = [float(text) for text in re.findall(r"[▼▲=] ([+-][\d.]+)", page.locator("#examples").inner_text())]
        assert changes == sorted(changes) and changes[0] < 0
        form.locator("input").fill("NUMBER 19")
        assert 0 < examples.count() < 20
        assert form.locator("output").inner_text() == f"{examples.count()} of 20"
        form.locator("input").fill("no such text")
        assert examples.count() == 0
        form.locator("input").fill("")
        form.locator("select").select_option("worse")
        assert examples.count() == sum(change < 0 for change in changes)


def test_a_long_list_is_shortened_until_requested_or_printed(browser: Browser, tmp_path: Path) -> None:
    report = make_report()
    report["examples"]["retrieval"] *= 3
    (tmp_path / "long.html").write_text(report_page(report, []))
    with opened(browser, tmp_path / "long.html") as page:
        form, examples = page.locator("#examples .search"), page.locator("#examples [data-item]:visible")
        assert (examples.count(), form.locator("output").inner_text()) == (20, "20 of 60")
        form.locator("input").fill("no such text")
        assert (examples.count(), form.locator("button").is_visible()) == (0, False)
        form.locator("input").fill("")
        assert examples.count() == 20
        form.get_by_role("button", name="Show 40 more").click()
        assert examples.count() == 60 and not form.locator("button").is_visible()
    with opened(browser, tmp_path / "long.html") as page:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("#examples [data-item]:visible").count() == 60


def test_points_of_the_map_have_tooltips(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["calm"]) as page:
        assert page.locator("#embeddings use title", has_text="the text of number 7").count() > 0
        titles = page.evaluate("[...document.querySelectorAll('use > title')].map((each) => each.textContent)")
        assert sorted(titles) == sorted(2 * [f"the text of number {number}" for number in range(200)])


def test_everything_is_readable_without_the_script(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["calm"], java_script_enabled=False) as page:
        assert not page.locator(".search").first.is_visible()
        first = page.locator(".example").first
        assert first.locator("li").first.is_visible()
        page.locator(".example").nth(5).locator("summary").first.click()
        assert page.locator(".example").nth(5).locator("li").first.is_visible()


def test_print_shows_everything_on_white(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["calm"], color_scheme="dark") as page:
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator(".example").last.locator("li").first.is_visible()
        assert page.evaluate(FAINT) == []
        assert len(page.pdf()) > 10_000
