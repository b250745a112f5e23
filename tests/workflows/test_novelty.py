"""A trained model marks images unlike its training images: the same everywhere, and of the promised number."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import cvrnet
from cvrnet import Predictor
from cvrnet.data import read_records, write_phantoms
from cvrnet.errors import UserError
from cvrnet.hub.staging import stage_run
from cvrnet.training import recipe
from cvrnet.workflows.calibrate import calibrate
from cvrnet.workflows.train import train

NOVELTY = "novelty.safetensors"


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """A run on 150 phantoms, whose validation set has enough images."""
    folder = tmp_path_factory.mktemp("gated")
    data = write_phantoms(folder / "data", 150, size=64, seed=3)
    settings = {"pretrained": False, "img_size": 64, "val_fraction": 0.3, "device": "cpu"}
    config = recipe("paper", encoders=("test_efficientnet",), epochs=1, **settings)
    train(data, folder / "run", config, test_source="site-b", audit=False, maps=False)
    return folder / "run"


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strange")
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return folder


def test_every_door_gives_the_same(gated, strange, cli, tmp_path):
    weights, part = gated / "model.safetensors", gated / NOVELTY
    assert part.stat().st_size < 0.05 * weights.stat().st_size + 2000  # the header
    rows = list(csv.DictReader((gated / "predictions.csv").open(encoding="utf-8")))
    val = [row for row in rows if row["split"] == "val"]
    marked = np.mean([float(row["unlike_training"]) > 0.95 for row in val])
    assert 0 < marked <= 0.05 + 1 / len(val)
    predictor = Predictor.from_pretrained(gated, "cpu", "fp32")
    names = {r.name: r.path for r in read_records(gated.parent / "data" / "manifest.csv")}
    found = predictor([names[row["path"]] for row in rows])
    np.testing.assert_allclose(
        [p.unlike_training for p in found], [float(row["unlike_training"]) for row in rows], atol=0.02
    )
    assert all(p.marked for p in predictor(sorted(strange.iterdir())))

    status, out, err = cli("predict", gated, strange, "--format", "jsonl")
    assert status == 0
    assert [json.loads(line)["unusual"] for line in out.splitlines()] == [1, 1, 1]
    assert "images unlike the training images (column unusual): 3 of 3" in err
    status, out, err = cli("predict", gated, strange, "--no-gate", "--format", "jsonl")
    assert status == 0
    assert all("unusual" not in json.loads(line) for line in out.splitlines())
    assert "unlike" not in err

    table = list(csv.DictReader((gated / "tables" / "unlike_training.csv").open(encoding="utf-8-sig")))
    assert {row["set"] for row in table} == {"independent"} | ({"val"} if len(table) > 1 else set())
    assert "Images unlike the training images" in (gated / "report.html").read_text(encoding="utf-8")
    staged = stage_run(gated, "ada/chest")
    assert NOVELTY in staged.main
    assert "marks images that are unlike the training images" in staged.card.decode()


def _with_a_side(folder, n, seed):
    """Phantoms with a bright square at the left edge of each."""
    data = write_phantoms(folder, n, size=64, seed=seed)
    for record in read_records(data):
        pixels = np.array(Image.open(record.path))
        pixels[20:44, :14] = 255
        Image.fromarray(pixels).save(record.path)
    return data


@pytest.fixture(scope="module")
def sided(tmp_path_factory):
    """A run with frozen encoders, on phantoms that have a side."""
    folder = tmp_path_factory.mktemp("sided")
    settings = {"pretrained": False, "img_size": 64, "val_fraction": 0.3, "device": "cpu", "amp": "fp32"}
    config = recipe("frozen", encoders=("test_resnet",), epochs=1, **settings)
    data = _with_a_side(folder / "data", 150, 3)
    train(data, folder / "run", config, test_source="site-b", audit=False, maps=False)
    return folder / "run"


def test_what_is_fitted_to_stored_features_holds_for_prediction(sided):
    rows = list(csv.DictReader((sided / "predictions.csv").open(encoding="utf-8")))
    names = {r.name: r.path for r in read_records(sided.parent / "data" / "manifest.csv")}
    found = Predictor.from_pretrained(sided, "cpu", "fp32")([names[row["path"]] for row in rows])
    written = [float(row["unlike_training"]) for row in rows]
    np.testing.assert_allclose([p.unlike_training for p in found], written, atol=0.01)


def test_mirrored_images_are_marked_everywhere(sided, tmp_path):
    """A file of earlier versions gives the distances without the sides."""
    paths = [record.path for record in read_records(_with_a_side(tmp_path / "new", 60, 9)) if record.source == "site-a"]
    predictor = Predictor.from_pretrained(sided, "cpu", "fp32")
    assert predictor.engine.novelty[0].side_weights.any()
    before = predictor(paths)
    for path in paths:
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    mirrored = predictor(paths)
    assert np.mean([p.marked for p in mirrored]) > 0.95 > 0.3 > np.mean([p.marked for p in before])

    shutil.copytree(sided, tmp_path / "old")
    tensors = load_file(sided / NOVELTY)
    save_file({k: v for k, v in tensors.items() if not k.startswith("side_")}, tmp_path / "old" / NOVELTY)
    old = [p.distances[0] for p in Predictor.from_pretrained(tmp_path / "old", "cpu", "fp32")(paths)]
    new = [p.distances[0] for p in mirrored]
    assert all(np.array(old) <= new)
    assert any(np.array(old) < new)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """60 phantoms of another hospital."""
    folder = tmp_path_factory.mktemp("else") / "data"
    return write_phantoms(folder, 60, size=64, seed=5, sources=("elsewhere", "site-z"))


@pytest.mark.parametrize("unlabelled", [False, True])
def test_a_calibration_adapts_the_limit(gated, strange, elsewhere, tmp_path, unlabelled):
    """At most 5 % of the hospital's images are marked afterwards, and noise still is."""
    paths = [record.path for record in read_records(elsewhere)]
    before = Predictor.from_pretrained(gated, "cpu", "fp32")(paths)
    result = calibrate(str(gated), elsewhere, tmp_path / "ours", unlabelled=unlabelled)
    predictor = Predictor.from_pretrained(tmp_path / "ours", "cpu", "fp32")
    after = predictor(paths)
    distances = np.array([p.distances for p in before])
    np.testing.assert_allclose([p.distances for p in after], distances, rtol=1e-5)
    assert np.mean([p.marked for p in before]) > 0.05
    assert np.mean([p.marked for p in after]) <= 0.05
    assert all(p.marked for p in predictor(sorted(strange.iterdir())))
    if unlabelled:
        assert f"the model marked {sum(p.marked for p in before)} of the 60 images" in result["sentences"][-1]
        return
    row = next(row for row in result["rows"] if row["score"] == "marked")
    assert row["before"] == pytest.approx(np.mean([p.marked for p in before]))
    assert row["after"] < row["before"]
    table = list(csv.DictReader((tmp_path / "ours" / "tables" / "unlike_training.csv").open(encoding="utf-8-sig")))
    assert float(table[0]["marked"]) == pytest.approx(row["after"])


@pytest.mark.parametrize("marked", ["x", "", "nan", "2"])
def test_a_damaged_table_of_rates_is_one_line(gated, tmp_path, marked):
    shutil.copytree(gated, tmp_path / "copy")
    table = tmp_path / "copy" / "tables" / "unlike_training.csv"
    table.write_text(f"set,source,marked\ntest,,{marked}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"unlike_training.csv is damaged"):
        stage_run(tmp_path / "copy", "ada/chest")


def test_it_travels_over_the_hub(gated, strange, hub, tmp_path):
    cvrnet.push_folds(gated, "ada/gated")
    image = sorted(strange.iterdir())[0]
    assert Predictor.from_pretrained("hf-hub:ada/gated")([image])[0].marked
    cvrnet.pull_folds("ada/gated", tmp_path / "pulled")
    assert (tmp_path / "pulled" / NOVELTY).read_bytes() == (gated / NOVELTY).read_bytes()


def test_the_page_says_so(gated):
    pytest.importorskip("gradio")
    from cvrnet.demo import markup
    from cvrnet.demo.answering import Answering

    answering = Answering(Predictor.from_pretrained(gated, "cpu", "fp32"))
    answer = answering.example("NOR")
    assert answer.decided == answering._decide(answer.prediction.probabilities)
    decided = {"set": ["CVP", "NOR"], "abstain": True}
    page = markup.probabilities(replace(answer, decided=decided), answering.classes, answering.members)
    assert "<b>CVP, NOR</b>" in page
    assert "more uncertain than about 80 %" in page
    for unlike_training, shown in ((1.0, True), (0.5, False)):
        prediction = replace(answer.prediction, unlike_training=unlike_training)
        page = markup.probabilities(replace(answer, prediction=prediction), answering.classes, answering.members)
        assert ("Unlike the training images." in page) == shown


def test_a_model_without_the_part_predicts_as_before(run, phantoms, cli):
    assert not (run / NOVELTY).exists(), "18 training images are too few"
    image = sorted(phantoms.parent.rglob("images/*/*.png"))[0]
    status, out, err = cli("predict", run, image)
    assert status == 0
    assert "unusual" not in out
    assert "this model cannot detect images unlike its training images" in err
    status, out, err = cli("predict", run, image, "--no-gate")
    assert (status, err) == (0, "")
    status, out, err = cli("predict", run, image, "--gate")
    assert status == 1
    assert "cannot detect images that are unlike its training images" in err


def test_a_damaged_part_is_one_line(sided, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sided, copy)
    tensors = load_file(sided / NOVELTY)
    for changed in (
        {"mean": tensors["mean"][:-1]},
        {"noise": torch.tensor(-1.0)},
        {"noise": torch.tensor(float("nan"))},
        {"quantiles": tensors["quantiles"].flip(0)},
        {"more": torch.zeros(1)},
        {"variances": tensors["variances"][:, None]},
        {"variances": tensors["variances"][0]},
        {"side_weights": tensors["side_weights"][1:]},
        {"side_weights": torch.full_like(tensors["side_weights"], torch.inf)},
        {"side_bias": torch.zeros(1)},
        {"side_bias": None},
    ):
        kept = {k: v.contiguous() for k, v in (tensors | changed).items() if v is not None}
        save_file(kept, copy / NOVELTY)
        with pytest.raises(UserError, match=r"novelty.safetensors cannot be used"):
            Predictor.from_pretrained(copy)
    (copy / NOVELTY).write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"novelty.safetensors cannot be used"):
        Predictor.from_pretrained(copy)
