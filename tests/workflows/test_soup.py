"""A soup is the mean of the folds' weights, and says whether it is worse than its folds."""

import csv
import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import cvrnet
from cvrnet.data import Preprocessing, read_records
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from cvrnet.runs.predictions import PredictionTable
from cvrnet.training import recipe
from cvrnet.workflows import cross_validate
from cvrnet.workflows.compare_soup import compare_soup
from cvrnet.workflows.soup import _renew_batch_norm, average, make_soup
from tests.conftest import PLAIN, TINY
from tests.support.folds import CLASSES, write_folds
from tests.support.networks import enliven, images


@pytest.fixture(scope="module")
def folds(run, tmp_path_factory):
    """A run of three folds that went small ways apart from the same weights, as fine-tuned folds do."""

    def make(fold):
        model = load_checkpoint(run)
        for block in model.head.blocks:
            block.classifier.weight.mul_(10)  # answers that differ from image to image
        for parameter in model.parameters():
            parameter.mul_(1 + 0.01 * torch.randn_like(parameter))
        return model

    folder = write_folds(run, tmp_path_factory.mktemp("folds"), 3, make)
    with (run / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "split.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for i, row in enumerate(rows):
            writer.writerow(row | {"fold": row["fold"] if row["fold"] == "independent" else i % 3 + 1})
    return folder


def test_the_mean_of_the_weights(folds):
    tensors = [load_file(folds / f"fold-{k}" / "model.safetensors") for k in (1, 2, 3)]
    for name, value in average([folds / f"fold-{k}" for k in (1, 2, 3)]).state_dict().items():
        if value.is_floating_point():
            expected = np.mean([t[name].numpy().astype(np.float64) for t in tensors], axis=0)
            np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_a_soup_is_scored_where_no_fold_was_trained(folds, phantoms, tmp_path, cli):
    """On the run's independent source; the ensemble's and the folds' scores stand beside."""
    status, out, err = cli("soup", folds, "-o", tmp_path / "soup", "--device", "cpu", "--amp", "fp32", "--no-audit")
    assert status == 0, err
    lines = [line.split()[0] for line in out.splitlines()]
    assert lines == ["model", "fold-1", "fold-2", "fold-3", "ensemble", "soup"]
    described = json.loads((tmp_path / "soup/run.json").read_text())
    assert (described["kind"], described["folds"]) == ("soup", ["fold-1", "fold-2", "fold-3"])
    assert "site-b, which no fold was trained on" in err
    assert "Batch norm's statistics are computed again from" in err
    assert "soup" in described["soup"]["verdict"]
    predictor = Predictor.from_pretrained(tmp_path / "soup", dtype="fp32")
    names = [row["path"] for row in csv.DictReader((folds / "split.csv").open()) if row["fold"] == "independent"]
    hits = [p.label == p.path.parent.name for p in predictor([phantoms.parent / name for name in names])]
    rows = {row["model"]: row for row in described["soup"]["rows"]}
    metrics = json.loads((tmp_path / "soup/metrics.json").read_text())["test"]
    assert rows["soup"]["images"] == len(names) == metrics["n"]
    assert rows["soup"]["accuracy"] == metrics["accuracy"]
    if phantoms.parent.joinpath(names[0]).parent.name in CLASSES:
        assert metrics["accuracy"] == np.mean(hits)
    status, out, _ = cli("predict", tmp_path / "soup", phantoms.parent / names[0])
    assert status == 0
    status, _, err = cli("soup", folds, "-o", tmp_path / "soup")
    assert (status, "--overwrite replaces it" in err) == (1, True)


def test_weights_that_do_not_mix(folds, tmp_path):
    """Folds that answer as before, but whose units are in other orders: their mean is another network altogether."""
    folders = sorted(folds.glob("fold-*"))
    for folder in folders:
        torch.manual_seed(int(folder.name[-1]))
        model = load_checkpoint(folder)
        with torch.no_grad():
            for block in model.head.blocks:
                permute(block)
        save_checkpoint(model, tmp_path / folder.name, CLASSES)
    x = images(4, (64, 64))
    with torch.no_grad():
        ensemble = sum(load_checkpoint(f)(x).softmax(-1) for f in folders) / 3
        same = sum(load_checkpoint(tmp_path / f.name)(x).softmax(-1) for f in folders) / 3
        torch.testing.assert_close(same, ensemble)
        good = (average(folders)(x).softmax(-1) - ensemble).abs().max()
        bad = (average([tmp_path / f.name for f in folders])(x).softmax(-1) - ensemble).abs().max()
    assert good < bad / 3, (good, bad)


def permute(block):
    """The hidden units of an FCL block in another order: the same function."""
    layers = [m for m in block.hidden if isinstance(m, torch.nn.Linear)] + [block.classifier]
    for this, after in itertools.pairwise(layers):
        order = torch.randperm(this.out_features)
        this.weight.copy_(this.weight[order])
        this.bias.copy_(this.bias[order])
        after.weight.copy_(after.weight[:, order])


@pytest.mark.parametrize(("drop", "word"), [(0.9, "is clearly worse"), (0.0, "is not inferior: it is")])
def test_the_verdict(drop, word):
    def table(probabilities):
        n = len(probabilities)
        return PredictionTable(CLASSES, [str(i) for i in range(n)], np.arange(n) % 3, probabilities, *[[""] * n] * 3)

    def verdict(folds, soup, honest):
        return compare_soup({"fold-1": table(folds), "fold-2": table(folds), "soup": table(soup)}, honest)[1]

    right = np.eye(3)[[i % 3 for i in range(300)]]
    wrong = right.copy()
    wrong[: int(drop * 300)] = np.roll(right[: int(drop * 300)], 1, axis=1)
    assert word in verdict(right, wrong, honest=True)
    if not drop:
        assert "on images that it was trained on" in verdict(right, wrong, honest=False)
        assert "too few images (" in verdict(right[:1], wrong[:1], honest=True)


def test_without_images_elsewhere_it_says_what_the_scores_are_worth(folds, tmp_path):
    shutil.copytree(folds, tmp_path / "run")
    about = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(about | {"test_source": ""}))
    split = tmp_path / "run/split.csv"
    split.write_text(split.read_text().replace(",independent", ",1"))
    soup = make_soup(tmp_path / "run", tmp_path / "soup", device="cpu", amp="fp32", **PLAIN)
    assert "can show that a soup is broken, but not that it is good" in soup["images"]
    assert not (tmp_path / "soup/metrics.json").exists()
    (tmp_path / "run/run.json").write_text(json.dumps(about | {"data": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match="pass DATA, the images on which the soup is scored"):
        make_soup(tmp_path / "run", tmp_path / "other")
    soup = make_soup(tmp_path / "run", tmp_path / "other", about["data"], device="cpu", amp="fp32", **PLAIN)
    assert "are the average over the folds, because the run's images are missing" in soup["batch_norm"]
    assert "were used to train the soup" in soup["images"]


def test_what_makes_no_soup_is_refused(folds, run, tmp_path):
    with pytest.raises(UserError, match="is one model; a soup needs a run with several folds"):
        make_soup(run, tmp_path / "soup")
    with pytest.raises(UserError, match="has no fold 7; expected some of 1, 2, 3"):
        make_soup(folds, tmp_path / "soup", folds=[1, 7])
    shutil.copytree(folds, tmp_path / "mixed")
    import timm

    other = timm.create_model("cvrnet_tiny", num_classes=3)
    enliven(other)
    save_checkpoint(other, tmp_path / "mixed/fold-2", CLASSES)
    with pytest.raises(UserError, match=r"fold-2 and fold-1 differ in architecture \('cvrnet_tiny', 'cvrnet'\)"):
        make_soup(tmp_path / "mixed", tmp_path / "soup")
    with pytest.raises(UserError, match=r"holds a run of another kind \(train, not soup\)"):
        make_soup(folds, run)
    assert not (tmp_path / "soup").exists()


def test_one_image_gives_batch_norm_no_statistics(phantoms):
    model = cvrnet.create_model("cvrnet_tiny", img_size=32)  # the deepest maps are 1 x 1
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert "are the average over the folds" in _renew_batch_norm(
        model, read_records(phantoms)[:1], Preprocessing.from_model(model), "cpu"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_frozen_encoders_stay_as_they_are(phantoms, tmp_path):
    """The folds share them, batch norm's statistics too; only the heads are averaged."""
    config = recipe(
        "frozen", **{name: TINY[name] for name in ("model", "encoders", "pretrained", "img_size")}, epochs=1
    )
    cross_validate(phantoms, tmp_path / "run", config, n_folds=3, **PLAIN)
    result = make_soup(tmp_path / "run", tmp_path / "soup", audit=False, maps=False)
    assert "frozen" in result["batch_norm"]
    fold, made = (load_file(tmp_path / name / "model.safetensors") for name in ("run/fold-1", "soup"))
    assert all(torch.equal(fold[name], made[name]) for name in fold if name.startswith("encoders."))
