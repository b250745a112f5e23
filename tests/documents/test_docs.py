"""Every block of code in the guides runs as it stands, or says why not."""

import pytest

from tests.support import pages

ELSEWHERE = {"index", "tutorial", "export"}  # test_readme.py and test_docs_pages.py: files are what processes share
PAGES = [page for page in pages.pages("*.md") if page.stem not in ELSEWHERE]


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_page(page, reader_of):
    reader_of(page).read(page)
