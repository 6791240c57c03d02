"""The demo: drawings, links, attacks, proofs, HTML; and the page in a real browser."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nullclass.core.errors import UserError
from nullclass.data import Dataset
from nullclass.demo import pictures, play
from nullclass.demo.app import Settings, show
from nullclass.demo.images import as_digit, digit_image, from_text, to_levels, to_text
from nullclass.models import Classifier, build_model
from nullclass.rejection import ProvableNull
from nullclass.zoo import load_zoo

SCREENSHOTS = os.environ.get("NULLCLASS_SCREENSHOTS")
"""Folder for screenshots, if they are wanted."""


@pytest.fixture(scope="module")
def models() -> tuple[Classifier, ProvableNull]:
    proved = load_zoo("provable-0.3")
    assert isinstance(proved, ProvableNull)
    return load_zoo("notebook-null"), proved


def test_the_sheet_holds_test_images(mnist: Dataset) -> None:
    for digit in range(10):
        indices = torch.nonzero(mnist.test.labels == digit).flatten()[:10]
        images, _ = mnist.test.batch(indices)
        found = np.stack([digit_image(digit, number) for number in range(10)])
        assert np.array_equal(found, images[:, 0].numpy())


@pytest.mark.parametrize("most", [1, 2, 16])
def test_a_link_holds_a_drawing(most: int) -> None:
    levels = np.random.default_rng(0).integers(0, most, (28, 28))
    drawing = (levels / 15).astype(np.float32)
    assert np.array_equal(from_text(to_text(drawing)), drawing)
    assert np.array_equal(to_levels(drawing), drawing)


@given(st.text(max_size=60))
def test_damaged_links_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        from_text(text)
    with pytest.raises(UserError):
        Settings.read({"drawing": text})


@pytest.mark.parametrize(
    "query",
    [
        {"do": "x"},
        {"digit": "10"},
        {"digit": "a"},
        {"number": "-1"},
        {"eps": "0.41"},
        {"eps": "nan"},
        {"eps": "inf"},
        {"drawing": "A" * 10_000},
    ],
)
def test_links_out_of_range_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(UserError):
        Settings.read(query)


def test_a_link_gives_the_same_settings() -> None:
    from urllib.parse import parse_qsl

    settings = Settings("aware", 3, 4, 0.23)
    assert Settings.read(dict(parse_qsl(settings.query))) == settings


def test_a_drawing_is_scaled_and_centred() -> None:
    strokes = np.zeros((280, 280), np.float32)
    assert as_digit(strokes) is None
    strokes[10, 10] = strokes[270, 270] = 0.2
    assert as_digit(strokes) is None, "too faint to be seen when it is smaller"
    strokes[:] = 0
    strokes[10:110, 200:220] = 1  # a one in the corner
    digit = as_digit(strokes)
    assert digit is not None
    rows, columns = np.nonzero(digit > 0.5)
    assert rows.max() - rows.min() + 1 == 20
    assert columns.max() - columns.min() + 1 == 4
    assert abs(rows.mean() - 13.5) <= 0.5
    assert abs(columns.mean() - 13.5) <= 0.5


@pytest.mark.parametrize("kind", ["fgsm", "aware"])
def test_attacks_keep_their_budget_and_end_their_path(
    models: tuple[Classifier, ProvableNull], kind: str
) -> None:
    model, _ = models
    clean = digit_image(7, 0)
    result = play.attack(model, clean, 7, kind, 0.2)
    assert np.abs(result.image - clean).max() <= 0.2 + 1e-6
    assert result.outcome == {"fgsm": "null", "aware": "fooled"}[kind]
    images = torch.from_numpy(np.stack([clean, result.image]))[:, None]
    first, last = model(images).softmax(dim=1).detach().numpy()
    assert result.path[0] == pytest.approx(first, abs=1e-5)
    assert result.path[-1] == pytest.approx(last, abs=1e-5)
    assert result.probabilities == pytest.approx(last, abs=1e-5)


def test_the_proved_radius_is_where_the_proof_ends(
    models: tuple[Classifier, ProvableNull],
) -> None:
    _, proved = models
    clean = digit_image(7, 0)
    proof = play.proof_of(proved, clean)
    images = torch.from_numpy(clean.copy())[None, None]
    for radius, label in ((proof.proved, 7), (proof.proved + 0.001, -1)):
        assert int(ProvableNull(proved.model, radius).predict(images)[0]) == label


class Balanced(HTMLParser):
    """Checks that tags close in order, and that pictures have a text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            assert dict(attrs)["alt"]
        elif tag not in ("line", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "polyline"):
            assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("clean", "The answer is 7."),
        ("fgsm", "Detected! The answer is null."),
        ("aware", "Fooled: the answer is 3, and it was 7."),
        ("prove", "Detected! The answer is null."),
    ],
)
def test_the_page_says_what_happens(
    models: tuple[Classifier, ProvableNull], kind: str, says: str
) -> None:
    html = show(*models, Settings(kind, 7, 0, 0.3 if kind == "prove" else 0.15))
    assert says in html
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    if kind == "prove":
        assert "within ε 0.30 makes it answer anything but 7 or null: proved." in html


def test_the_cube_names_the_answers_at_the_point() -> None:
    html = pictures.cube(pictures.ramp_spaces(), (0.33, 0.67, 0.0))
    assert "what would be right: up" in html
    assert "what would be right: null" in pictures.cube(pictures.ramp_spaces(), (1, 1, 1))


def test_other_models_are_refused() -> None:
    with pytest.raises(UserError, match="ten digits with null"):
        play.check_model(build_model("small", image_shape=(1, 8, 8), num_classes=3))


@pytest.mark.slow
def test_settings_answer_within_a_second(models: tuple[Classifier, ProvableNull]) -> None:
    """Seconds of the process, median over 20 images: attack, proof and HTML."""
    for kind in ("fgsm", "aware", "prove"):
        seconds = []
        for number in range(20):
            started = time.process_time()
            show(*models, Settings(kind, number // 2, number % 2, 0.15))
            seconds.append(time.process_time() - started)
        print(f"{kind}: {median(seconds):.3f} s")
        assert median(seconds) < 1


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    from nullclass.demo.serve import launch

    app, address = launch("notebook-null", host="127.0.0.1", port=None, browser=False)
    yield address
    app.close()


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.slow
@pytest.mark.parametrize("look", ["light", "dark", "phone"])
@pytest.mark.skipif(chromium() is None, reason="no chromium is here: apt-get install chromium")
def test_in_a_browser(look: str, page: str, tmp_path: Path) -> None:
    sync_api: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    size = {"width": 390, "height": 844} if look == "phone" else {"width": 1200, "height": 900}
    flags = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    problems: list[str] = []
    elsewhere: list[str] = []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium(), args=[f"--{flag}" for flag in flags.split()]
        )
        context = browser.new_context(
            viewport=size, color_scheme="dark" if look == "dark" else "light"
        )
        context.set_default_timeout(120_000)
        tab = context.new_page()
        tab.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda r: elsewhere.append(r.url) if is_elsewhere(r.url, page) else None)
        tab.goto(page)
        shown = tab.locator("#result .nc-verdict")
        expect = sync_api.expect
        expect.set_options(timeout=120_000)
        expect(shown).to_have_text("The answer is 7.")
        for button, says in (
            ("Attack: FGSM", "Detected! The answer is null."),
            ("Attack: knows null", "Fooled: the answer is 3, and it was 7."),
            ("Ask a proved model", "Not fooled: the answer is still 7."),
        ):
            tab.get_by_role("button", name=button).focus()
            tab.keyboard.press("Enter")
            expect(shown).to_have_text(says)
            picture(tab, f"{look}-{button.split(' ')[-1]}")
        expect(tab.locator("#result")).to_contain_text("proved")
        link = tab.get_by_label("Link to these settings").input_value()
        assert link.startswith(page)

        tab.get_by_role("button", name="No attack").click()
        expect(shown).to_have_text("The answer is 7.")
        draw_a_one(tab)
        expect(shown).to_have_text("The answer is 1.")
        drawn = tab.get_by_label("Link to these settings").input_value()
        assert "drawing=" in drawn
        picture(tab, f"{look}-drawn")
        assert tab.evaluate("document.documentElement.scrollWidth") <= size["width"]

        tab.get_by_role("tab", name="Ramp cube").click()
        expect(tab.get_by_text("what would be right: up")).to_be_visible()
        picture(tab, f"{look}-cube")

        for address, says in ((link, "Not fooled"), (drawn, "The answer is 1.")):
            tab.goto(address)
            expect(tab.locator("#result .nc-verdict")).to_contain_text(says)
        browser.close()
    assert problems == []
    assert elsewhere == []


def is_elsewhere(address: str, page: str) -> bool:
    return not address.startswith((page, "data:", "blob:"))


def draw_a_one(tab: Any) -> None:
    """Choose the brush, and draw a line down."""
    tab.get_by_role("button", name="Brush").first.click()
    tab.wait_for_timeout(500)
    tab.locator("canvas").first.scroll_into_view_if_needed()
    box = tab.locator("canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y - 60)
    tab.mouse.down()
    for step in range(13):
        tab.mouse.move(x, y - 60 + 10 * step)
        tab.wait_for_timeout(20)
    tab.mouse.up()


def picture(tab: Any, name: str) -> None:
    if SCREENSHOTS is not None:
        tab.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)
