"""The pages of the models agree with the program."""

import pytest

import cvrnet
from tests.support import programs

PAGES = programs.ROOT / "docs" / "models"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    programs.load("write_model_pages")["main"](folder)
    return folder


def test_every_model_has_a_page():
    assert {page.stem for page in PAGES.glob("*.md")} == {"index", *cvrnet.list_models()}


@pytest.mark.parametrize("name", ["index", *cvrnet.list_models()])
def test_a_page_says_what_the_program_does(written, name):
    committed, now = (folder / f"{name}.md" for folder in (PAGES, written))
    assert committed.read_text(encoding="utf-8") == now.read_text(encoding="utf-8"), (
        "python scripts/write_model_pages.py"
    )


def test_the_figures_of_the_papers(written):
    """Known independently: Keras's own count, less what timm does not count."""
    text = (written / "cvrnet.md").read_text(encoding="utf-8")
    assert "48,468,727" in text
    assert "| P4 | `legacy_xception.block3.rep.5` | 728 | 28 x 28 |" in text
    assert "There are no pretrained weights of the whole network" in text
