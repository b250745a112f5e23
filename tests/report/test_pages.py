"""report.html and audit.html as a browser shows them: no network, no scripts, a phone's width, paper."""

import re
import shutil
from html.parser import HTMLParser

import pytest

from cvrnet.audit.audit_page import MAX_ROWS, render_page
from cvrnet.audit.findings import Finding
from cvrnet.data import read_records
from cvrnet.html import render
from tests.report.test_report import HOSTILE, evaluate, make

MAX_CLUSTERS, MAX_MEMBERS, MAX_FILES = 60, 12, 30  # what audit.html.jinja shows at most
PROBE = {"auc": 0.8, "auc_low": 0.7, "auc_high": 0.9, "auc_permuted": 0.5, "target": "label", "scope": "all"}


def audit_page(phantoms):
    """A page with every kind of finding, long lists and hostile names among them."""
    records = read_records(phantoms)
    names = [record.name for record in records]
    by_source = [{"label": r.label, "source": r.source, "images": 1200, "patients": 3} for r in records]
    by_source += [{**row, "label": label} for row in by_source for label in {r.label for r in records}]
    rows = [{"some_key": f"a|{HOSTILE}", "share": 0.123, "n": k} for k in range(MAX_ROWS + 1234)]
    clusters = [names[: MAX_MEMBERS + 2]] * (MAX_CLUSTERS + 3)
    return render_page(
        [
            Finding("label-source", "severe", f"Tied {HOSTILE}.", {"table": by_source}, advice="Split <them>."),
            Finding("near-duplicates", "warning", "Copies.", {"clusters": clusters, "table": rows}, tuple(names)),
            Finding("patient-splits", "warning", "Patients.", {"table": rows}, (HOSTILE,) * (MAX_FILES + 5)),
            Finding("probe", "note", "x", {"table": [{**PROBE, "probe": name} for name in ("border", "corners")]}),
        ],
        records,
        HOSTILE,
    )


@pytest.fixture(scope="module")
def pages(phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    classes = [f"A class with a long name, number {k}" for k in range(5)]
    records, p, _ = make(n=80, classes=classes)
    evaluate(folder, records, p, classes, model="a/rather/long/path/" * 8)
    (folder / "audit.html").write_text(audit_page(phantoms), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in ("report", "audit")}


def test_the_audit_shows_what_it_found(pages):
    page = pages["audit"].read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<style>.*</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())
    assert "1,200 (3)" in text
    assert "What to do: Split &lt;them&gt;." in text
    assert f"Cluster {MAX_CLUSTERS}" in text
    assert f"Cluster {MAX_CLUSTERS + 1}" not in text
    assert "and 3 more clusters, in the CSV file" in text
    assert page.count("data:image/jpeg") == MAX_CLUSTERS * MAX_MEMBERS
    assert "1,274 rows" in text
    assert "and 1,234 more, in the CSV file" in text
    assert f"{MAX_FILES + 5} files" in text
    assert "and 5 more, in audit.json" in text
    assert "some key share n" in text
    assert "a, &lt;script&gt;" in text  # "|" in a cell becomes a comma
    assert "0.12 " in text
    assert "Label, whole data set" in text
    assert page.count("<circle") == 4
    assert "<script" not in page


class Nesting(HTMLParser):
    """Fails where tags are not closed in the order in which they were opened."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["report", "audit"])
def test_tags_are_closed_in_order(pages, name):
    assert Nesting(pages[name].read_text(encoding="utf-8")).open == []


def test_what_a_template_lacks_is_a_damaged_file():
    with pytest.raises(LookupError, match="'results' is undefined"):
        render("report.html.jinja", run={})


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no browser")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


A4 = 718  # CSS pixels between margins of 10 mm


@pytest.mark.parametrize("name", ["report", "audit"])
def test_a_page_fits_and_fetches_nothing(pages, browser, name):
    page = browser.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(pages[name].as_uri())
    for width, media in ((390, "screen"), (1280, "screen"), (A4, "print")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(media=media)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, media)
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.pdf(format="A4").startswith(b"%PDF-")
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert sum(url.startswith("file:") for url in asked) == 1
    assert complaints == []
    assert page.evaluate("document.scripts.length") == 0
    page.close()
