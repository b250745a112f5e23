"""Names of files and classes that are no text, steer a terminal or look like formulas; inputs that are no image."""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import click
import pytest

from cvrnet.data import DataError, read_records
from cvrnet.inference import Predictor
from cvrnet.workflows.soup import _own_images
from cvrnet_cli.options import class_names
from tests.data.test_dicom import RAMP, write

pytestmark = pytest.mark.skipif(os.name != "posix", reason="file names are text elsewhere")

NAMES = [b"\xff\xfe.png", b"=cmd.png", b"esc\x1b[2Jx.png", b"new\nline.png", b"c1\xc2\x9b31m.png", "é.png".encode()]
STEERING = [chr(i) for i in (*range(10), *range(11, 32), *range(127, 160))]


@pytest.fixture
def odd(phantoms, tmp_path, monkeypatch):
    """A folder of one picture under odd names; the current folder is the one above."""
    picture = next(phantoms.parent.glob("images/*/*.png"))
    (tmp_path / "odd").mkdir()
    for name in NAMES:
        shutil.copy(picture, os.path.join(os.fsencode(tmp_path / "odd"), name))
    monkeypatch.chdir(tmp_path)
    return Path("odd")


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))


def harmless(*texts: str) -> bool:
    return not any(character in text for text in texts for character in STEERING)


@pytest.mark.parametrize("style", ["table", "csv", "jsonl"])
def test_predictions_of_odd_names(run, odd, cli, style, monkeypatch):
    monkeypatch.chdir(odd)
    status, out, err = cli("predict", run, *sorted(os.listdir(".")), "--format", style, "--no-gate")
    assert (status, err) == (0, "")
    assert harmless(out)
    assert len(out.splitlines()) == len(NAMES) + (style != "jsonl")
    if style == "csv":
        shown = [row["path"] for row in csv.DictReader(io.StringIO(out))]
        assert shown == [
            "'=cmd.png",
            r"c1\x9b31m.png",
            r"esc\x1b[2Jx.png",
            r"new\nline.png",
            "é.png",
            r"\udcff\udcfe.png",
        ]
        assert all(float(row["prob_NOR"]) < 1 for row in csv.DictReader(io.StringIO(out)))
    if style == "jsonl":
        assert {os.fsencode(json.loads(line)["path"]) for line in out.splitlines()} == set(NAMES)


def test_files_of_odd_names_are_complete(run, odd, cli, tmp_path):
    for name in ("out.csv", "out.json"):
        assert cli("predict", run, odd, "-o", tmp_path / name)[0] == 0
    assert len(rows(tmp_path / "out.csv")) == len(NAMES)
    assert all(Path(row["path"]).is_file() for row in json.loads((tmp_path / "out.json").read_text()))


def test_errors_of_odd_names(run, odd, cli):
    for name in NAMES:
        Path(os.fsdecode(os.path.join(b"odd", name))).write_bytes(b"no picture")
    status, out, err = cli("predict", run, odd)
    assert status == 1
    assert harmless(out, err)
    assert len(err.splitlines()) == len(NAMES) + 1
    for command in (("predict", run, "\x1b[2J.png"), ("train", "\x1b[2J", "-o", "r"), ("\x1b[2J",), ("train", "-\x1b")):
        status, out, err = cli(*command)
        assert status
        assert r"\x1b" in err
        assert harmless(out, err)


def test_explain_and_audit_of_odd_names(run, odd, cli, tmp_path):
    some = [os.fsdecode(os.path.join(b"odd", name)) for name in NAMES[:2]]
    status, out, _ = cli("explain", run, *some, "-o", "maps")
    assert status == 0
    assert harmless(out)
    assert len(rows(Path("maps/explanations.csv"))) == 2
    shutil.copytree(odd, "classes/A\x1b[2J")
    shutil.copytree(odd, "classes/=B")
    status, out, err = cli("audit", "classes", "-o", "audit")
    assert status == 1
    assert harmless(out, err)
    assert "8 rows or images cannot be used" in out
    sheets = [cell for file in Path("audit").glob("*.csv") for row in rows(file) for cell in (*row, *row.values())]
    assert "'=B" in sheets
    assert harmless(*sheets)
    status, _, err = cli("train", "classes", "-o", "never")
    assert status == 1
    assert r"=B/\udcff\udcfe.png: the file name is not Unicode text" in err
    assert harmless(err)


def test_a_folder_without_a_picture_is_an_error(run, cli, tmp_path, phantoms):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_text("x")
    status, out, err = cli("predict", run, tmp_path / "none", "-o", tmp_path / "out.csv")
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        f"{tmp_path / 'none'}: 1 entry passed over (not an image 1)",
        f"Error: {tmp_path / 'none'}: no image found in this folder",
    ]
    assert not (tmp_path / "out.csv").exists()
    picture = next(phantoms.parent.glob("images/*/*.png"))
    status, out, err = cli("predict", run, tmp_path / "none", picture, "--format", "csv")
    assert status == 1
    assert len(out.splitlines()) == 2
    assert "no image found" in err
    assert cli("explain", run, tmp_path / "none", "-o", tmp_path / "maps")[0] == 1


def test_dicom_counts_whatever_its_suffix(run, cli, tmp_path):
    for name in ("IM-0000.IMA", "b.dic", "c", "d.bin"):
        write(tmp_path / name, RAMP)
    status, out, err = cli("predict", run, tmp_path, "--format", "csv", "--no-gate")
    assert (status, err) == (0, "")
    assert [Path(line.split(",")[0]).name for line in out.splitlines()[1:]] == ["IM-0000.IMA", "b.dic", "c", "d.bin"]


def test_what_is_no_regular_file_is_refused_at_once(run, cli, tmp_path):
    os.mkfifo(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.csv")
    status, _, err = cli("predict", run, tmp_path / "a.png", tmp_path / "b.csv", "/dev/zero", "x" * 300)
    assert status == 1
    assert err.count("a FIFO, socket or device; expected a regular file") == 3
    assert "File name too long" in err
    about = {"data": str(tmp_path / "b.csv"), "data_sha256": ""}
    assert _own_images(about, "multiclass", ["CVP", "NCP", "NOR"]) == []
    with pytest.raises(DataError, match="expected a regular file"):
        read_records(tmp_path / "b.csv")


def test_one_path_is_a_list_of_one(run, phantoms):
    picture = next(phantoms.parent.glob("images/*/*.png"))
    predictor = Predictor.from_pretrained(run)
    (expected,) = predictor([picture])
    for path in (picture, str(picture)):
        (found,) = predictor(path)
        assert (found.path, found.label) == (picture, expected.label)
        assert [p.label for p in predictor.stream(path)] == [expected.label]


def test_class_names_as_csv_or_in_a_file(tmp_path):
    assert class_names("NOR, NCP,CVP,") == ("NOR", "NCP", "CVP")
    assert class_names('"a, b",c') == ("a, b", "c")
    assert class_names('x, "say ""a"", b"') == ("x", 'say "a", b')
    assert class_names("Ne\u0301ant,b") == ("N\u00e9ant", "b")
    (tmp_path / "classes.txt").write_text("\ufeffa, b\n\n c\r\n", encoding="utf-8")
    assert class_names(f"@{tmp_path / 'classes.txt'}") == ("a, b", "c")
    (tmp_path / "latin").write_bytes(b"\xff")
    for wrong in (f"@{tmp_path}", f"@{tmp_path / 'none'}", f"@{tmp_path / 'latin'}", '"a,b'):
        with pytest.raises(click.BadParameter):
            class_names(wrong)
