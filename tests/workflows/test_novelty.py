"""A trained model marks images unlike its training images: the same everywhere, and of the promised number."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA

import cvrnet
from cvrnet import Predictor
from cvrnet.data import Record, read_records, write_phantoms
from cvrnet.errors import UserError
from cvrnet.heads.novelty import join_inputs, join_sides, sides, unlike
from cvrnet.hub.staging import stage_run
from cvrnet.training import recipe
from cvrnet.training.novelty import LEAST_IMAGES, fit_novelty, fit_sides
from cvrnet.workflows.calibrate import calibrate
from cvrnet.workflows.novelty import MOST_IMAGES, _draw
from cvrnet.workflows.train import train

NOVELTY = "novelty.safetensors"


def inputs(n, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 3)).astype(np.float32)
    mixing = np.random.default_rng(99).normal(size=(3, 30)).astype(np.float32)
    x = 5 + shift + latent @ mixing + 0.1 * rng.normal(size=(n, 30)).astype(np.float32)
    return [torch.from_numpy(x[:, :10]), torch.from_numpy(x[:, 10:])]


def test_the_distance_is_scikit_learns():
    """Twice scikit-learn's negative log-likelihood differs from the squared distance by a constant."""
    train_, val = inputs(300), inputs(100, 1)
    head = fit_novelty(train_, val, 10**9)
    x = join_inputs(train_).double().numpy()
    pca = PCA(len(head.variances), svd_solver="full").fit(x)
    likelihood = -2 * pca.score_samples(join_inputs(val).double().numpy())
    squared = head.distance(val).double().numpy() ** 2
    differences = likelihood - squared
    assert np.ptp(differences) < 0.02 * np.ptp(squared)


def _unlike(head, images):
    return unlike(head.distance(images).numpy()[:, None], [head.quantiles.numpy()])


def test_five_percent_of_the_validation_images_are_marked_and_others_all():
    head = fit_novelty(inputs(400), inputs(200, 1), 10**9)
    shares = _unlike(head, inputs(200, 1))
    assert 0.045 <= (shares > 0.95).mean() <= 0.055
    assert 0.01 <= (_unlike(head, inputs(500, 2)) > 0.95).mean() <= 0.12
    other = inputs(50, 3, shift=torch.linspace(-9, 9, 30).numpy())
    assert (_unlike(head, other) > 0.95).all()


def test_the_part_is_small_and_needs_enough_images():
    head = fit_novelty(inputs(400), inputs(200, 1), 8000)
    assert sum(t.numel() * 2 for t in (head.mean, head.directions, head.side_weights)) <= 0.05 * 8000
    assert fit_novelty(inputs(LEAST_IMAGES - 1), inputs(50), 10**9) is None
    assert fit_novelty(inputs(50), inputs(LEAST_IMAGES - 1), 10**9) is None
    assert fit_novelty(inputs(50), inputs(50), 100) is None, "no room"
    same = [torch.ones(50, 10), torch.ones(50, 20)]
    assert fit_novelty(same, same, 10**9) is None, "vectors that do not vary"


@pytest.mark.parametrize("shape", [(7, 7), (4, 6), (2, 2), (1, 3)])
def test_the_sides_of_a_mirrored_map_are_the_negative_ones(shape):
    feature_map = torch.rand(3, 5, *shape)
    found = sides(feature_map)
    assert found.shape == (3, 2, 5)
    torch.testing.assert_close(sides(feature_map.flip(3)), -found)
    torch.testing.assert_close(sides(7 * feature_map), found)
    torch.testing.assert_close(sides((feature_map + feature_map.flip(3)) / 2), torch.zeros(3, 2, 5))
    upper = feature_map.clone()
    upper[:, :, -(max(shape[0] // 2, 1)) :] = 1
    if shape[0] > 1:
        torch.testing.assert_close(sides(upper)[:, 1], torch.zeros(3, 5))
    if shape[1] % 2:
        feature_map[..., shape[1] // 2] = 9
        torch.testing.assert_close(sides(feature_map), found)


def test_maps_without_halves_or_values_have_no_sides():
    assert sides(torch.rand(3, 5, 4, 1)).equal(torch.zeros(3, 2, 5))
    assert sides(torch.zeros(3, 5, 4, 4)).equal(torch.zeros(3, 2, 5))
    parts = [sides(torch.rand(2, c, 4, 4)) for c in (1, 2, 3)]
    joined = join_sides(parts, [[2, 0], [1]])
    assert joined.equal(torch.cat([parts[2], parts[0], parts[1]], 2).reshape(2, 12))


def _films(n, seed, side=1.0):
    """Sides of images and of their mirror images: what tells them is 0.3 of a deviation in each number."""
    rng = np.random.default_rng(seed)
    x = 0.3 * side + rng.normal(size=(n, 60))
    return tuple(torch.from_numpy(v.astype(np.float32)) for v in (x, 0.2 * rng.normal(size=(n, 60)) - x))


def test_mirrored_images_are_marked_within_the_same_false_alarms():
    plain = fit_novelty(inputs(300), inputs(200, 1), 10**9)
    films, mirrored = _films(300, 0)
    head = fit_sides(plain, films, mirrored[:200], _films(200, 1)[0], inputs(200, 1))

    def marked(images, of_maps):
        return (unlike(head(images, of_maps).numpy()[:, None], [head.quantiles.numpy()]) > 0.95).mean()

    assert 0.045 <= marked(inputs(200, 1), _films(200, 1)[0]) <= 0.055
    new, new_mirrored = _films(400, 2)
    assert marked(inputs(400, 2), new) <= 0.12
    assert marked(inputs(400, 2), new_mirrored) >= 0.9
    far = inputs(50, 3, shift=torch.linspace(-9, 9, 30).numpy())
    assert marked(far, _films(50, 3)[0]) == 1
    typical = head(inputs(400, 2), new) == head.distance(inputs(400, 2))
    assert typical.float().mean() > 0.8, "the value of an ordinary image is its distance"


@pytest.mark.parametrize("kind", ["no side", "nothing"])
def test_images_without_a_side_leave_the_head_as_it_is(kind):
    plain = fit_novelty(inputs(300), inputs(200, 1), 10**9)
    (films, mirrored), (val, _) = _films(300, 0, side=0), _films(200, 1, side=0)
    if kind == "nothing":
        films, mirrored, val = 0 * films, 0 * mirrored, 0 * val
    head = fit_sides(plain, films, mirrored, val, inputs(200, 1))
    assert head.side_weights.shape == (60,)
    assert not head.side_weights.any()
    assert head(inputs(50, 2), films[:50]).equal(plain.distance(inputs(50, 2)))


def test_symmetrical_images_leave_the_head_as_it_is(phantoms):
    torch.manual_seed(0)
    model = cvrnet.create_model("cvrnet_tiny", num_classes=3, img_size=64).eval()
    pixels = [np.asarray(Image.open(record.path).convert("RGB").resize((64, 64))) for record in read_records(phantoms)]
    images = torch.from_numpy(np.array(pixels) / 255).float().permute(0, 3, 1, 2)
    images = torch.cat([images.roll(step, 2) for step in (0, 3, 6, 9)])
    images = (images + images.flip(3)) / 2
    with torch.no_grad():
        both = model.forward_maps(images), model.forward_maps(images.flip(3))
    found, mirrored = (join_sides([sides(m) for m in maps], model.groups) for maps in both)
    pooled = model.pool_maps(both[0])
    train_, val = slice(0, None, 2), slice(1, None, 2)
    plain = fit_novelty([x[train_] for x in pooled], [x[val] for x in pooled], 10**9)
    head = fit_sides(plain, found[train_], mirrored[train_][:30], found[val], [x[val] for x in pooled])
    assert not head.side_weights.any()


def test_folds_draw_the_same_images():
    records = [Record(Path(f"/{i}"), str(i), "NOR") for i in range(3 * MOST_IMAGES)]
    order = [records[i].name for i in _draw(records, 0)]
    assert len(order) == MOST_IMAGES
    fold = records[200:][::-1]
    inside = {record.name for record in fold}
    drawn = [fold[i].name for i in _draw(fold, 0)]
    shared = [name for name in order if name in inside]
    assert drawn[: len(shared)] == shared
    assert _draw(records, 1) != _draw(records, 0)


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """A run on 150 phantoms, whose validation set has enough images."""
    folder = tmp_path_factory.mktemp("gated")
    data = write_phantoms(folder / "data", 150, size=64, seed=3)
    config = recipe(
        "paper", model="cvrnet_tiny", epochs=1, pretrained=False, img_size=64, val_fraction=0.3, device="cpu"
    )
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
    assert "3 of 3 images are unlike the training images" in err
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


def test_an_onnx_file_marks_the_same(gated, strange, tmp_path):
    pytest.importorskip("onnxruntime")
    from cvrnet.onnx import export_onnx

    export_onnx(gated, tmp_path / "model.onnx")
    paths = [*sorted(strange.iterdir()), *sorted((gated.parent / "data" / "images").rglob("*.png"))[:20]]
    expected, found = (Predictor.from_pretrained(m, "cpu", "fp32")(paths) for m in (gated, tmp_path / "model.onnx"))
    np.testing.assert_allclose([p.unlike_training for p in found], [p.unlike_training for p in expected], atol=0.02)


def _mirror_images(folder, paths):
    folder.mkdir()
    for i, path in enumerate(paths):
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / f"{i:03}.png")
    return sorted(folder.iterdir())


def test_mirrored_phantoms_are_marked_everywhere(gated, tmp_path):
    """The heart is on one side. An ONNX file, and a file of earlier versions, agree about the distance."""
    data = write_phantoms(tmp_path / "new", 60, size=64, seed=9, sources=("site-a", "site-c"))
    paths = [r.path for r in read_records(data) if r.source == "site-a"]
    mirrored = _mirror_images(tmp_path / "mirrored", paths)
    predictor = Predictor.from_pretrained(gated, "cpu", "fp32")
    assert predictor.novelty[0].side_weights.any()
    right, wrong = (np.mean([p.marked for p in predictor(images)]) for images in (paths, mirrored))
    assert wrong > right + 0.3

    shutil.copytree(gated, tmp_path / "old")
    tensors = load_file(gated / NOVELTY)
    save_file({k: v for k, v in tensors.items() if not k.startswith("side_")}, tmp_path / "old" / NOVELTY)
    old = Predictor.from_pretrained(tmp_path / "old", "cpu", "fp32")(mirrored)
    new = predictor(mirrored)
    assert all(a.distances[0] <= b.distances[0] for a, b in zip(old, new, strict=True))
    assert any(a.distances[0] < b.distances[0] for a, b in zip(old, new, strict=True))

    pytest.importorskip("onnxruntime")
    from cvrnet.onnx import export_onnx

    export_onnx(gated, tmp_path / "model.onnx")
    found = Predictor.from_pretrained(tmp_path / "model.onnx", "cpu", "fp32")(mirrored)
    np.testing.assert_allclose([p.distances for p in found], [p.distances for p in new], rtol=1e-3)


@pytest.mark.parametrize("unlabelled", [False, True])
def test_a_calibration_adapts_the_limit(gated, strange, tmp_path, unlabelled):
    """At most 5 % of the hospital's images are marked afterwards, and noise still is."""
    data = write_phantoms(tmp_path / "else", 60, size=64, seed=5, sources=("elsewhere", "site-z"))
    paths = [record.path for record in read_records(data)]
    before = Predictor.from_pretrained(gated, "cpu", "fp32")(paths)
    result = calibrate(str(gated), data, tmp_path / "ours", unlabelled=unlabelled)
    predictor = Predictor.from_pretrained(tmp_path / "ours", "cpu", "fp32")
    after = predictor(paths)
    distances = np.array([p.distances for p in before])
    np.testing.assert_allclose([p.distances for p in after], distances, rtol=1e-5)
    assert np.mean([p.marked for p in before]) > 0.05
    assert np.mean([p.marked for p in after]) <= 0.05
    assert all(p.marked for p in predictor(sorted(strange.iterdir())))
    if unlabelled:
        assert f"{sum(p.marked for p in before)} of the 60 images were marked" in result["sentences"][-1]
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
    assert "20 % most uncertain" in page
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
    assert "This model cannot tell images that are unlike its training images" in err
    status, out, err = cli("predict", run, image, "--no-gate")
    assert (status, err) == (0, "")
    status, out, err = cli("predict", run, image, "--gate")
    assert status == 1
    assert "cannot tell images that are unlike its training images" in err


def test_a_damaged_part_is_one_line(gated, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(gated, copy)
    tensors = load_file(gated / NOVELTY)
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
