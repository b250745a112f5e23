"""What a new reader tries first runs as it stands: README, the site's home and the tutorial."""

import pytest

from tests.support import pages


@pytest.mark.parametrize("page", [pages.README, pages.DOCS / "index.md", pages.DOCS / "tutorial.md"], ids=pages.name)
def test_page(page, reader_of):
    assert reader_of(page).read(page) >= 3


def test_the_two_commands_stand_at_the_top():
    head = pages.README.read_text(encoding="utf-8").splitlines()[:10]
    assert any(line.startswith("make quickstart") for line in head)
    assert any(line.startswith("make test") for line in head)
