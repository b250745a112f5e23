"""From a data set with some lung masks to models that see only the lungs."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cvrnet.audit.examination import Examination
from cvrnet.audit.model_findings import model_findings
from cvrnet.data import read_image, read_records, write_phantoms
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.lungs import Segmenter
from cvrnet.runs.layout import SEGMENTER
from cvrnet.training import TrainConfig
from cvrnet.workflows import train
from cvrnet.workflows.find_lungs import find_lungs

PLAIN = {"audit": False, "maps": False}


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """24 phantoms, of which only every second has its lung mask in the manifest; one mask is black."""
    folder = tmp_path_factory.mktemp("films")
    rows = table(write_phantoms(folder / "films", 24, size=96))
    for row in rows[1::2]:
        row["lung_mask"] = ""
    black = folder / "films" / rows[0]["lung_mask"]
    Image.fromarray(np.zeros((96, 96), np.uint8)).save(black)
    with open(folder / "films" / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "films" / "manifest.csv"


@pytest.fixture(scope="module")
def masks(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks") / "masks"
    find_lungs(films, folder, n_folds=2, epochs=3, size=64, device="cpu", amp="fp32")
    return folder


@pytest.fixture(scope="module")
def run(films, masks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    config = TrainConfig("cvrnet_tiny", ("test_resnet", "test_efficientnet"), pretrained=False, img_size=64, epochs=1)
    train(films, folder, config_of(config, masks), **PLAIN)
    return folder


def config_of(config, masks):
    return replace(config, lungs="crop", segmenter=str(masks), device="cpu", amp="fp32")


def test_what_the_folder_holds(films, masks):
    about = json.loads((masks / "summary.json").read_text())
    assert about["given"] == 11
    assert about["found"] + about["implausible"] == 13
    (problem,) = about["problems"]
    assert problem.endswith("the mask is empty")
    quality = table(masks / "quality.csv")
    assert len(quality) == 11
    assert {row["fold"] for row in quality} == {"1", "2"}
    assert about["quality"]["dice"]["mean"] == pytest.approx(np.mean([float(row["dice"]) for row in quality]))
    rows = {row["path"]: row for row in table(masks / "manifest.csv")}
    told = {row["path"]: row for row in table(masks / "masks.csv")}
    assert len(rows) == len(told) == 24
    assert Image.open(masks / "lungs.png").size[0] > 100


def test_the_file_gives_the_same_network_and_a_damaged_one_is_a_line(films, masks, tmp_path):
    first, again = Segmenter.load(masks), Segmenter.load(masks / SEGMENTER)
    picture = read_image(next(films.parent.rglob("*.png")))
    assert np.array_equal(first.probabilities(picture), again.probabilities(picture))
    first.save(tmp_path / SEGMENTER)
    assert Segmenter.load(tmp_path).digest == first.digest
    whole = (masks / SEGMENTER).read_bytes()
    for number, content in enumerate([b"", whole[: len(whole) // 2], whole.replace(b'size\\": 64', b'size\\": 63')]):
        (tmp_path / f"{number}.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="cannot be used: ") as caught:
            Segmenter.load(tmp_path / f"{number}.safetensors")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such segmenter"):
        Segmenter.load(tmp_path / "nowhere")


def test_prediction_does_what_training_did(films, run, cli):
    about = json.loads((run / "run.json").read_text())
    assert about["lungs"]["given"] == 11
    assert about["lungs"]["given"] + about["lungs"]["found"] + len(about["lungs"]["whole"]) == 24
    assert any("mask is empty" in line or "cannot be used" in line for line in about["lungs"]["whole"])
    predictor = Predictor.from_pretrained(run, "cpu", "fp32")
    predictor.use_masks(read_records(films))
    kept = {row["path"]: row for row in table(run / "predictions.csv")}
    for prediction in predictor.stream([films.parent / path for path in kept]):
        row = kept[os.path.relpath(prediction.path, films.parent)]
        expected = [float(row[f"prob_{name}"]) for name in predictor.classes]
        np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)
    status, out, _ = cli("predict", run, films.parent / "images", "--format", "csv")
    assert status == 0
    assert {row["lungs"].partition(":")[0] for row in csv.DictReader(out.splitlines())} <= {"crop", "whole picture"}


def test_an_audit_says_why_the_lungs_are_not_hidden(films, run):
    """And does not ask for lung masks."""
    records = read_records(films)
    examined = Examination.from_pretrained(run, records, device="cpu")
    tested = next(record for record in records if record.name in examined.of and record.lung_mask)
    examined.add(tested, examined.views(tested, read_image(tested.path, "RGB")))
    *_, finding = model_findings(examined)
    assert (finding.code, finding.severity, finding.advice) == ("model-without-lungs", "note", "")
    assert finding.sentence == "The lungs were not hidden: the model sees only the lungs (--lungs crop)."


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "RUN", "-o", "x.onnx"], "sees only the lungs"),
        (
            ["predict", "RUN", "FILMS", "--num-workers", "1"],
            "--num-workers cannot be used with a model that sees only the lungs",
        ),
        (["train", "FILMS", "-o", "x", "--segmenter", "MASKS"], "needs lungs="),
        (["train", "FILMS", "-o", "x", "--lungs", "crop", "--unit", "patient"], "needs unit='image'"),
        (["train", "IMAGES", "-o", "x", "--lungs", "mask"], "add --segmenter FOLDER"),
        (["train", "FILMS", "-o", "x", "--lungs", "mask", "--segmenter", "nowhere"], "no such segmenter"),
        (["lungs", "IMAGES", "-o", "x"], "found 0 usable lung_masks; expected at least 10"),
    ],
)
def test_what_cannot_be_done_is_one_line(films, masks, run, cli, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "classes"
    for number in range(6):
        (images / f"class-{number % 2}").mkdir(parents=True, exist_ok=True)
        (images / f"class-{number % 2}" / f"{number}.png").write_bytes(
            sorted(films.parent.rglob("images/**/*.png"))[number].read_bytes()
        )
    places = {"RUN": run, "FILMS": films, "MASKS": masks, "IMAGES": images}
    status, _, err = cli(*[places.get(word, word) for word in arguments])
    assert status != 0
    assert words in err.strip().splitlines()[-1]
    assert err.strip().splitlines()[-1].startswith("Error: ")
