"""``cvrnet explain``: pictures, rows, refusals, and the measured maps."""

import csv
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cvrnet.data import read_records, write_phantoms
from cvrnet.files import write_csv
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from cvrnet.runs.split_table import split_row
from tests.support.figures import real_figures

EXAMPLE = Path(__file__).parents[2] / "examples" / "gradcam.py"
PAGE = Path(__file__).parents[2] / "docs" / "explain.md"


@pytest.fixture(scope="module")
def lively(run, tmp_path_factory):
    """The tiny run with classifiers that are sure of something, so that every map shows something or says why not."""
    model = load_checkpoint(run)
    torch.manual_seed(0)
    with torch.no_grad():
        for classifier in model.get_classifier():
            classifier.weight.normal_(std=0.5)
    folder = tmp_path_factory.mktemp("explain") / "run"
    for fold in (1, 2):
        save_checkpoint(model, folder / f"fold-{fold}", ["CVP", "NCP", "NOR"])
    return folder


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    """The manifest of a few radiographs with masks, to measure maps on."""
    return write_phantoms(tmp_path_factory.mktemp("data") / "twelve", 12, size=64)


@pytest.fixture
def two(phantoms):
    return sorted(phantoms.parent.glob("images/*/*.png"))[:2]


@real_figures()
def test_pictures_of_the_images_own_size(cli, lively, two, tmp_path):
    out_dir = tmp_path / "maps"
    status, out, err = cli("explain", lively, *two, "-o", out_dir, "--all", "--raw", "--format", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert rows == list(csv.DictReader((out_dir / "explanations.csv").open()))
    assert [row["path"] for row in rows] == [str(p) for p in two]
    assert "mean of the maps of 2 folds" in err
    assert status == int(any(row["error"] for row in rows))
    parts = ["network", "test_resnet", "test_efficientnet", "P1", "P2", "P3", "P4", "P5"]
    drawn = 0
    for row, path in zip(rows, two, strict=True):
        size = Image.open(path).size
        assert 0 < float(row["probability"]) <= 1
        assert row["class"] == row["prediction"]
        with Image.open(out_dir / row["figure"]) as figure:
            assert figure.width > 600
        for part in parts:
            if not row[part]:
                assert f"{part}: the map is" in row["error"]
                continue
            drawn += 1
            with Image.open(out_dir / row[part]) as overlay:
                assert (overlay.size, overlay.mode) == (size, "RGB")
            cam = np.load((out_dir / row[part]).with_suffix(".npy"))
            assert (cam.shape, cam.dtype, cam.max()) == (size[::-1], np.float32, 1)
    assert drawn >= 8
    status, _, err = cli("explain", lively, *two, "-o", out_dir)
    assert (status, err) == (1, f"Error: {out_dir / 'explanations.csv'} exists; --overwrite replaces it\n")


@pytest.mark.both_precisions
def test_a_chosen_class_encoder_and_head(cli, lively, two, tmp_path):
    choice = ("--target", "NOR", "--encoder", "2", "--head", "1")
    status, out, _ = cli("explain", lively, two[0], "-o", tmp_path, *choice, "--format", "json")
    (row,) = json.loads(out)
    assert row["class"] == "NOR"
    assert {"test_efficientnet", "P1"} <= set(row)
    assert not {"network", "test_resnet"} & set(row)
    assert status == bool(row["error"])


def test_an_unreadable_image_is_named_and_the_others_go_on(cli, lively, two, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    status, out, err = cli("explain", lively, broken, two[0], "-o", tmp_path / "maps", "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert f"Error: {broken}: not a" in err
    assert rows[0]["figure"] is None
    assert (tmp_path / "maps" / rows[1]["figure"]).is_file()


def test_equal_names_do_not_collide(cli, lively, two, tmp_path):
    for name in ("a/x.png", "b/x.png", "b/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.open(two[0]).save(tmp_path / name)
    _, out, _ = cli("explain", lively, tmp_path / "a", tmp_path / "b", "-o", tmp_path / "o", "--format", "jsonl")
    figures = [json.loads(line)["figure"] for line in out.splitlines()]
    assert sorted(figures) == ["a/x-figure.png", "b/x.jpg-figure.png", "b/x.png-figure.png"]
    assert all((tmp_path / "o" / name).is_file() for name in figures)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "XYZ"], "class XYZ; expected CVP, NCP, NOR"),
        (["--encoder", "vgg16"], "no part vgg16; expected some of network, test_resnet, test_efficientnet, P1"),
        (["--head", "6"], "no part P6; expected some of network"),
        (["--out-of-fold"], "--out-of-fold needs --measure"),
        (["--measure", "--raw"], "--measure needs one data set"),
    ],
)
def test_mistakes_are_one_line(cli, lively, two, tmp_path, arguments, message):
    status, out, err = cli("explain", lively, two[0], "-o", tmp_path, *arguments)
    assert status in (1, 2)
    assert out == ""
    assert message in err.splitlines()[-1]


def test_onnx_is_refused_with_the_reason(cli, two, tmp_path):
    status, _, err = cli("explain", "model.onnx", two[0], "-o", tmp_path)
    assert status == 1
    assert err.startswith("Error: model.onnx: an ONNX file has no gradients")
    assert err.count("\n") == 1


def test_measure(cli, lively, twelve, tmp_path):
    model = lively / "fold-1"
    status, out, err = cli("explain", model, twelve, "-o", tmp_path, "--measure", "--format", "csv")
    assert status == 0, err
    rows = list(csv.DictReader(out.splitlines()))
    assert {(r["mask"], r["measure"]) for r in rows} == {
        (mask, measure) for mask in ("lung", "lesion") for measure in ("energy", "pointing", "iou")
    }
    summary = json.loads((tmp_path / "localisation.json").read_text())
    network = summary["all"]["localisation"][0]
    assert (network["part"], network["mask"], network["images"]) == ("network", "lung", 12)
    images = list(csv.DictReader((tmp_path / "localisation.csv").open()))
    masks = sum(bool(row[name]) for row in csv.DictReader(twelve.open()) for name in ("lung_mask", "lesion_mask"))
    assert len(images) == 8 * masks * 3, "parts, masks, kinds of weights"
    trained = [r for r in images if (r["part"], r["mask"], r["weights"]) == ("network", "lung", "trained")]
    values = [float(r["energy"]) for r in trained if r["energy"]]
    assert network["mean"] == pytest.approx(np.mean(values))
    assert network["flat"] == 12 - len(values) == sum(bool(r["refused"]) for r in trained)
    assert network["chance"] == pytest.approx(np.mean([float(r["share"]) for r in trained if r["energy"]]))
    status, _, err = cli("explain", model, twelve, "-o", tmp_path, "--measure")
    assert (status, err.count("\n")) == (1, 1)
    assert "--overwrite replaces it" in err


@pytest.mark.both_precisions
def test_measure_out_of_fold(cli, lively, twelve, tmp_path):
    folder = shutil.copytree(lively, tmp_path / "run")
    arguments = ("explain", folder, twelve, "-o", tmp_path / "o", "--measure", "--out-of-fold")
    assert "has no split.csv" in cli(*arguments)[2]
    write_csv(folder / "split.csv", [split_row(r, 1 + i % 3) for i, r in enumerate(read_records(twelve))])
    states = [folder / f"fold-{fold}" / "training-state.pt" for fold in (1, 2)]
    for state in states:
        state.touch()
    assert "no finished fold of" in cli(*arguments)[2]
    for state in states:
        state.unlink()
    status, out, err = cli(*arguments)
    assert status == 0, err
    assert "Left out, because no finished fold tests them: 4 of the images with masks" in err
    assert "Rank correlation" in out
    assert json.loads((tmp_path / "o" / "localisation.json").read_text())["images_measured"] == 8


def test_results_are_replaced_whole_and_other_files_stay(cli, lively, two, tmp_path, monkeypatch):
    out = tmp_path / "maps"
    assert cli("explain", lively / "fold-1", *two, "-o", out)[0] in (0, 1)
    (out / "mine.txt").write_text("mine")
    before = {path: path.read_bytes() for path in out.iterdir()}

    def fail(explanation, part, path, threshold):
        raise KeyboardInterrupt

    overwrite = ("explain", lively / "fold-2", *two, "-o", out, "--overwrite")
    with monkeypatch.context() as patch:
        patch.setattr("cvrnet.explain.pictures.save_overlay", fail)
        assert cli(*overwrite)[0] == 130
    assert cli("explain", tmp_path / "nosuch", *two, "-o", out, "--overwrite")[0] == 1
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert cli(*overwrite, "--target", "NOR")[0] in (0, 1)
    assert (out / "mine.txt").read_text() == "mine"
    assert {row["class"] for row in csv.DictReader((out / "explanations.csv").open())} == {"NOR"}

    (out / "explanations.csv").write_text("path,label\nmine.png,NOR\n")
    assert "explanations.csv exists, but `cvrnet explain` did not write it" in cli(*overwrite)[2]
    (out / "explanations.csv").unlink()
    assert "exists and is not part of an earlier result" in cli(*overwrite)[2]
    (out / "localisation.csv").write_text("mine")
    status, _, err = cli("explain", lively, two[0], "-o", out, "--measure", "--overwrite")
    assert (status, "localisation.csv exists, but `cvrnet explain --measure` did not write it" in err) == (1, True)
    assert sorted(tmp_path.iterdir()) == [out]


def test_measure_needs_masks(cli, lively, phantoms, tmp_path):
    (tmp_path / "images").symlink_to(phantoms.parent / "images")
    (tmp_path / "notes.txt").write_text("no image")
    status, _, err = cli("explain", lively, tmp_path, "-o", tmp_path / "out", "--measure")
    assert status == 1
    assert "1 entry passed over (not an image 1)" in err
    assert "no image has a lung_mask, lesion_mask or lesion_boxes" in err


def test_the_pages_code(lively, two, tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "run").symlink_to(lively)
    shutil.copy(two[0], tmp_path / "chest.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.split()[0] in ("CVP", "NCP", "NOR")


@real_figures()
def test_the_example(lively, phantoms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(lively), str(phantoms)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    with Image.open("explain.png") as figure:
        assert figure.width > 600


def test_an_earlier_picture_whose_name_looks_like_a_formula_is_replaced(cli, lively, two, tmp_path, monkeypatch):
    """`ROWS` holds such a name behind a quotation mark, for spreadsheets."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(two[0], "=x.png")
    again = ("explain", lively / "fold-2", "=x.png", "-o", "maps", "--overwrite")
    assert cli(*again)[0] in (0, 1)
    before = sorted(Path("maps").iterdir())
    assert any(path.name.startswith("=") for path in before)
    assert "exists" not in cli(*again, "--target", "NOR")[2]
    assert sorted(Path("maps").iterdir()) == before
