"""The picture of the audit's output: drawn of what the command really prints."""

import pytest

from tests.support import programs

PICTURE = programs.FIGURES / "audit.png"


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("matplotlib")
    return programs.load("draw_audit")


def findings(path):
    return programs.description(path).splitlines()


def test_the_committed_picture_shows_the_findings_on_a_shortcut():
    lines = findings(PICTURE)
    assert all(line.startswith("severe   ") for line in lines)
    assert any("Class and source are associated" in line for line in lines)
    assert any("from the corners alone" in line for line in lines)
    assert PICTURE.stat().st_size < 250_000


def test_every_word_is_in_the_picture(script):
    lines = findings(PICTURE)
    shown = " ".join(text.get_text() for text in script["draw"](lines).texts)
    assert all(word in shown for line in lines for word in line.split())


def test_the_script_runs_the_command(script, tmp_path):
    pytest.importorskip("cv2")
    script["main"](tmp_path / "audit.png", 48)
    lines = findings(tmp_path / "audit.png")
    assert any("Class and source are associated" in line for line in lines)
