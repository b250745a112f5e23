"""The demo from end to end, in a real browser. Skipped where there is none."""

from __future__ import annotations

import csv
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.demos import CLASSES, SECRET, film, write_dicom, write_png

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

from cvrnet.data import read_records  # noqa: E402
from cvrnet.demo.answering import EXAMPLES  # noqa: E402
from cvrnet.demo.serving import running  # noqa: E402
from cvrnet.inference import Predictor  # noqa: E402

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
FILE, FILES = "One image", "Many images"
PATIENCE = 60_000  # milliseconds
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
expect = playwright.expect
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    """One window for all visits, so that the page's programs are loaded and compiled once."""
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=[*OPTIONS.split(), "--no-first-run"])
        yield browser.new_page()
        browser.close()


@pytest.fixture(scope="module")
def address(window: Any, predictor: Predictor) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with running(predictor, "folds", port=port, max_mb=1) as address:
        yield address


@pytest.fixture
def visit(window: Any, address: str) -> Iterator[Any]:
    """The page on a phone; at its end it must have asked nobody else, complained of nothing, and fit any window."""
    page = window
    page.set_viewport_size(PHONE)
    page.set_default_timeout(PATIENCE)
    elsewhere: list[str] = []
    complaints: list[str] = []
    own = (address, "data:", "blob:")
    page.on("request", lambda asked: None if asked.url.startswith(own) else elsewhere.append(asked.url))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    for name in ("Click to upload or drop files", *EXAMPLES.values()):
        expect(page.get_by_role("button", name=name).first).to_be_enabled()
    yield page
    for size in (PHONE, DESKTOP):
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert (elsewhere, complaints) == ([], [])
    page.goto("about:blank")  # what a page says while it is left is not the next visit's


def send(page: Any, *paths: Path, tab: str = FILE) -> None:
    page.get_by_role("tab", name=tab).click()
    page.locator(f"input[type=file]{':not([multiple])' if tab == FILE else '[multiple]'}").set_input_files(paths)


def wait_for_answer(page: Any) -> None:
    """Wait until the picture, the heads and what chooses another map are there: the page mounts them one by one."""
    page.locator("img.film").wait_for()
    page.get_by_text("Head by head").wait_for()
    for role, name in (("combobox", "Evidence for"), ("combobox", "As seen by"), ("slider", "Threshold")):
        expect(page.get_by_role(role, name=name)).to_be_visible()
        expect(page.get_by_role(role, name=name)).to_be_enabled()


def shown(page: Any) -> str:
    """The picture, as the browser has it."""
    return str(page.locator("img.film").get_attribute("src"))


def test_an_image_a_dicom_and_a_broken_file(visit: Any, predictor: Predictor, tmp_path: Path) -> None:
    png = write_png(tmp_path / "chest.png")
    dicom = write_dicom(tmp_path / "chest.dcm", film("CVP"))
    (tmp_path / "broken.png").write_bytes(png.read_bytes()[:300])
    for path in (png, dicom):
        send(visit, path)
        visit.get_by_text(f"{path.name}, 128 × 128 pixels").wait_for()
        wait_for_answer(visit)
        (expected,) = predictor([path])
        assert visit.locator("section h2").first.inner_text() == f"{expected.label} {expected.probabilities.max():.3f}"
        table = visit.get_by_role("table", name="Probability of each class", exact=True)
        rows = [row.inner_text().split() for row in table.get_by_role("row").all()]
        assert rows == [[name, f"{p:.3f}"] for name, p in zip(CLASSES, expected.probabilities, strict=True)]
        assert f"{expected.predictive_entropy:.2f} nats (predictive entropy)" in visit.content().replace("</b>", "")
        heads = visit.get_by_role("table", name="Probability of each class from each head")
        assert heads.get_by_role("row").count() == 1 + 5 + 1
        film_ = visit.get_by_role("img", name="The radiograph. The coloured areas show where the whole network")
        assert film_.evaluate("image => image.decode().then(() => image.naturalWidth)") == 640
        assert SECRET not in visit.content()
    send(visit, tmp_path / "broken.png")
    visit.get_by_role("alert").filter(has_text="No answer. broken.png: ").wait_for()
    expect(visit.locator("img.film")).to_have_count(0)
    send(visit, png)
    visit.get_by_text("chest.png, 128 × 128 pixels").wait_for()


@pytest.mark.realdata
def test_a_real_radiograph(visit: Any, predictor: Predictor, cxr: Path) -> None:
    path = read_records(cxr / "manifest.csv")[0].path
    send(visit, path)
    visit.get_by_text(f"{path.name}, ").wait_for()
    (expected,) = predictor([path])
    assert visit.locator("section h2").first.inner_text() == f"{expected.label} {expected.probabilities.max():.3f}"
    expect(visit.locator("img.film")).to_have_count(1)


def test_class_part_and_threshold_without_the_network(
    visit: Any, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit.get_by_role("button", name="One consolidation").click()
    wait_for_answer(visit)
    monkeypatch.setattr(type(predictor), "member_probabilities", None)
    monkeypatch.setattr("cvrnet.demo.answering.explain_classes", None)
    pictures = [shown(visit)]

    def changed() -> None:
        visit.wait_for_function("old => document.querySelector('img.film').src !== old", arg=pictures[-1])
        pictures.append(shown(visit))

    slider = visit.get_by_role("slider", name="Threshold")
    slider.fill("0.4")  # once: of many quick changes, Gradio's page can lose the last while its stream closes
    visit.get_by_text("of at least 0.40 of the map").wait_for()
    pictures.append(shown(visit))
    part = visit.get_by_role("combobox", name="As seen by")
    part.click()
    visit.get_by_role("option", name="head P5").wait_for()
    names = [option.inner_text().strip("✓ \n") for option in visit.get_by_role("option").all()]
    assert names[0] == "whole network"
    assert names[1:] == ["encoder 1: test_resnet", "encoder 2: test_efficientnet", *(f"head P{k}" for k in range(1, 6))]
    visit.get_by_role("option", name="encoder 1: test_resnet").click()
    changed()
    target = visit.get_by_role("combobox", name="Evidence for")
    other = next(name for name in CLASSES if name != target.input_value())
    target.click()
    visit.get_by_role("option", name=other).click()
    changed()
    assert len(set(pictures)) == 4
    assert visit.get_by_text(f"evidence for {other} of at least 0.40").count() or visit.get_by_text("No map:").count()


def test_many_images_as_csv(visit: Any, predictor: Predictor, tmp_path: Path) -> None:
    paths = [write_png(tmp_path / f"{label}.png", label) for label in CLASSES]
    paths.append(write_dicom(tmp_path / "ct.dcm", np.stack([film("NOR"), film("CVP")])))
    (tmp_path / "notes.txt").write_text("no image")
    send(visit, *paths, tmp_path / "notes.txt", tab=FILES)
    visit.get_by_text("5 of 6 images answered").wait_for()
    told = " ".join(visit.get_by_role("alert").inner_text().split())
    assert told == "Not read: 1. notes.txt: not a PNG, JPEG, TIFF, WebP, BMP or DICOM image"
    with visit.expect_download() as download:
        visit.get_by_role("link", name="Download predictions.csv").click()
    assert download.value.suggested_filename == "predictions.csv"
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert [row["path"] for row in rows] == ["CVP.png", "NCP.png", "NOR.png", "ct.dcm#1", "ct.dcm#2", "notes.txt"]
    for row, expected in zip(rows, predictor(paths[:3]), strict=False):
        assert row["prediction"] == expected.label
        np.testing.assert_allclose(float(row["prob_NCP"]), expected.probabilities[1], atol=1e-6)
    assert rows[-1]["error"].startswith("not a PNG")


def test_the_keyboard_alone_will_do(visit: Any) -> None:
    seen: list[str] = []
    for _ in range(20):
        visit.keyboard.press("Tab")
        seen.append(visit.evaluate("(document.activeElement.ariaLabel || document.activeElement.innerText).trim()"))
        if seen[-1] == "Ground glass":
            break
    assert seen[:2] == [FILE, FILES]
    assert {"Click to upload or drop files", "Clear lungs", "One consolidation", "Ground glass"} <= set(seen)
    visit.keyboard.press("Enter")
    wait_for_answer(visit)
    for _ in range(20):
        visit.keyboard.press("Tab")
        seen.append(visit.evaluate("(document.activeElement.ariaLabel || document.activeElement.innerText).trim()"))
    assert {"Evidence for", "As seen by", "range slider for Threshold", "Head by head"} <= set(seen)


def test_a_large_file_is_refused_with_a_word(visit: Any, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(b"x" * (2**20 + 1))
    send(visit, tmp_path / "large.png")
    visit.get_by_text("exceed the maximum allowed size of 1.0 Mb").first.wait_for()
    visit.get_by_role("button", name="Clear lungs").click()
    visit.locator("img.film").wait_for()
