"""Text that neither a terminal nor a spreadsheet acts on."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvrnet.text import printable, sheet_cell


@given(st.text(st.characters(), max_size=20))
def test_nothing_that_could_steer_a_terminal_is_left(text):
    shown = printable(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(c) for c in shown} & {"LRO", "RLO", "LRE", "RLE", "LRI", "RLI", "FSI", "PDI"}
    shown.encode("utf-8")
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+SUM(A1)", "@SUM(A1)", "＝1+1", "-lung.png", "\t=1", "\r=1"]
)
def test_no_cell_is_a_formula(text):
    """The characters are those of OWASP's page on CSV injection."""
    assert sheet_cell(text)[0] not in "=+-@＝＋－＠\t\r"
    assert sheet_cell(text).lstrip("'").endswith(text.lstrip())


@pytest.mark.parametrize(
    "value", [-0.5, -3, None, True, "-0.5", "+12", "-1.5e-05", "-0.963 ± 0.004", "-", "NOR", "'=x"]
)
def test_numbers_and_words_stay(value):
    assert sheet_cell(value) == value
