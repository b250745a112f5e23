"""As test_docs.py, of the pages in folders of their own."""

import pages
import pytest

PAGES = [page for page in pages.pages("*/*.md") if page.parent.name in ("concepts", "howto", "models")]


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_page(page, reader_of):
    assert reader_of(page).read(page) >= 0
