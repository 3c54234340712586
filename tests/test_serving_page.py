"""The page in a real browser: what a user sees and does. Skipped without Chromium (`apt-get install chromium`)."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from isthmus.serving.served import ServedModel
from live_server import live, served_models
from toy_fusion import toy_model
from toys import png

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]
DROP = """([uri, name]) => {
  const bytes = Uint8Array.from(atob(uri.split(',')[1]), (one) => one.charCodeAt(0));
  const file = new File([bytes], name, {type: uri.slice(5, uri.indexOf(';'))});
  const carried = new DataTransfer();
  carried.items.add(file);
  for (const kind of ['dragenter', 'dragover', 'drop'])
    document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: carried, bubbles: true, cancelable: true}));
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    asked = ServedModel("asked", toy_model(tmp_path_factory.mktemp("asked")))
    with live([*served_models(tmp_path_factory.mktemp("served")), asked]) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page on which no error, warning or request to another host may occur."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    heard: list[str] = []
    opened.on("console", lambda message: heard.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: heard.append(str(error)))
    opened.on("request", lambda asked: asked.url.startswith((address, "data:", "blob:")) or heard.append(asked.url))
    opened.goto(address)
    opened.wait_for_selector("button.tile")
    yield opened
    expected = getattr(opened, "expected", ())
    assert [text for text in heard if not any(part in text for part in expected)] == []
    context.close()


def tiles(page: Any) -> list[str]:
    """The captions that are shown, when the answer is there."""
    page.wait_for_selector("#results:not([aria-busy])")
    return page.locator("#results .caption").all_inner_texts()


def ask(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def test_a_text_is_searched_and_the_slider_hides_what_is_less_sure(page: Any) -> None:
    assert "64 pictures" in page.inner_text("#status")
    ask(page, "red")
    page.wait_for_selector(".facts b")
    sure = tiles(page)
    assert sure
    assert "red" in sure[0]
    page.locator("#sure").fill("0")
    assert len(tiles(page)) > len(sure)
    assert page.inner_text("output[for=sure]") == "everything"
    assert page.locator("#results img").first.get_attribute("alt") == sure[0]


def test_nothing_fits_is_said_and_the_nearest_are_shown_all_the_same(page: Any) -> None:
    ask(page, "quarterly report")
    page.wait_for_selector(".note")
    assert page.inner_text(".note h2") == "Nothing fits “quarterly report”"
    assert len(tiles(page)) == 12


def test_a_click_shows_more_like_it_and_back_returns(page: Any) -> None:
    ask(page, "blue")
    page.wait_for_selector(".facts b")
    before = tiles(page)
    page.locator("button.tile").first.click()
    page.wait_for_selector("#chip:not([hidden])")
    page.get_by_text("The 60 nearest.").wait_for()
    assert before[0] not in tiles(page)
    page.go_back()
    page.wait_for_selector("#chip", state="hidden")
    page.wait_for_selector(".facts b")
    assert tiles(page) == before


def test_a_dropped_picture_is_searched_labelled_and_segmented(page: Any) -> None:
    drop(page, Image.new("RGB", (60, 40), (255, 0, 0)), "red.png")
    page.get_by_text("The 60 nearest.").wait_for()
    assert "red" in tiles(page)[0]
    page.click("#tab-label")
    ask(page, "red, green, blue")
    page.wait_for_selector(".bars")
    assert page.locator(".bars .name span").first.inner_text() == "red"
    page.click("#tab-segment")
    page.wait_for_selector(".legend")
    assert page.locator(".legend li").first.inner_text().split("\n") == ["red", "100 %"]
    page.locator(".legend button").first.click()
    assert page.locator(".legend button").first.get_attribute("aria-pressed") == "true"


def test_a_label_leaves_the_others_out_also_by_keys_and_in_the_address(page: Any) -> None:
    assert page.locator("#only-folder").is_hidden()  # the pictures are in one
    page.select_option("#only-label", "blue")
    page.get_by_text("Pictures of blue.").wait_for()
    ask(page, "red")
    page.wait_for_selector(".facts")
    page.locator("#sure").fill("0")
    assert {caption.split(" ")[2] for caption in tiles(page)} == {"blue"}
    page.reload()
    page.wait_for_selector(".facts")
    assert page.input_value("#only-label") == "blue"
    page.focus("#only-label")
    page.keyboard.press("Home")
    page.get_by_text("pictures of at least").wait_for()
    assert "red" in tiles(page)[0]


def test_a_question_about_a_picture_gets_the_answers_of_the_model(page: Any) -> None:
    page.click("#tab-ask")
    drop(page, Image.new("RGB", (60, 40), (255, 0, 0)), "red.png")
    ask(page, "a red photo")
    page.wait_for_selector(".bars")
    assert set(page.locator(".bars .name span:first-child").all_inner_texts()) == {"yes", "no", "two"}


def test_two_models_answer_side_by_side(page: Any) -> None:
    page.click("#tab-compare")
    ask(page, "green")
    page.wait_for_selector(".side-by-side .facts")
    assert [text.split(" ")[0] for text in page.locator(".side-by-side h2").all_inner_texts()] == ["first", "second"]


def test_what_goes_wrong_is_told(page: Any) -> None:
    drop(page, None, "notes.txt")
    assert "not a picture" in page.inner_text(".note.error")
    page.expected = ("400",)  # Chromium tells of it on the console
    page.evaluate(DROP, ["data:image/png;base64,aGVsbG8=", "broken.png"])
    page.wait_for_selector(".note.error >> text=not a")
    page.expected = ("400", "ERR_FAILED", "Failed to load resource")
    page.route("**/api/search", lambda route: route.abort())
    ask(page, "red")
    page.wait_for_selector("text=The server does not answer")
    page.unroute("**/api/search")
    page.press("body", "Escape")
    page.wait_for_selector("button.tile")


def test_all_of_it_is_reached_by_keys(page: Any) -> None:
    page.keyboard.press("/")
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    page.wait_for_selector(".facts b")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.closest('li') === document.querySelectorAll('.grid li')[1]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chip:not([hidden])")
    page.keyboard.press("Escape")
    page.wait_for_selector("#chip", state="hidden")
    page.focus("#tab-search")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-compare", "aria-selected") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_a_narrow_screen_does_not_scroll_sideways(page: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.base").AXE_FILE_PATH
    page.evaluate(Path(axe).read_text(encoding="utf-8"))
    page.emulate_media(color_scheme=scheme)
    for tab, text in (
        ("search", "red"),
        ("compare", "green"),
        ("label", "red, blue"),
        ("segment", "red, blue"),
        ("ask", "red"),
    ):
        page.click(f"#tab-{tab}")
        ask(page, text)
        if tab == "label":
            drop(page, Image.new("RGB", (60, 40), (255, 0, 0)), "red.png")
        page.wait_for_selector({"label": ".bars", "segment": ".legend", "ask": ".bars"}.get(tab, ".facts"))
        found = page.evaluate("axe.run()")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.set_viewport_size({"width": 1280, "height": 900})


def drop(page: Any, picture: Image.Image | None, name: str) -> None:
    kind, data = ("image/png", png(picture)) if picture is not None else ("text/plain", b"notes")
    page.evaluate(DROP, [f"data:{kind};base64,{base64.b64encode(data).decode()}", name])
