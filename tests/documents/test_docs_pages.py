"""Every block of code in the how-to pages, the concepts, the models' pages and docs/export.md runs, or says why not."""

import pytest

from tests.support import pages

PAGES = [page for page in pages.pages() if page.parent != pages.DOCS]
PAGES += [pages.DOCS / "export.md", *sorted(pages.ROOT.glob("examples/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_page(page, reader_of):
    reader_of(page).read(page)
