"""Heads trained on the pooled maps of frozen encoders."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from sklearn.preprocessing import StandardScaler

import cvrnet
from cvrnet.data import Augmentation, ImageCache, Preprocessing, read_image, read_records, to_batch
from cvrnet.errors import UserError
from cvrnet.heads import MultiScaleAveragingHead
from cvrnet.heads.novelty import join_sides, sides
from cvrnet.inference import Predictor
from cvrnet.inference.frozen_features import BATCH, MIRRORED, FrozenFeatures, head_inputs, stored_sides
from cvrnet.network import CVRNet
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.layout import STATE
from cvrnet.training import Progress, TrainConfig, recipe
from cvrnet.training.frozen_encoders import FrozenEncoders, StandardizedHead, ViewVectors, mean_std
from cvrnet.workflows import Callbacks, cross_validate, train
from tests.conftest import PLAIN, TINY

MODEL = {name: TINY[name] for name in ("model", "encoders", "pretrained", "img_size")}
CONFIG = recipe("frozen", **MODEL, epochs=3, batch_size=16)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def network(seed: int = 0, **settings: Any) -> CVRNet:
    torch.manual_seed(seed)
    model: Any = timm.create_model("cvrnet", encoders=MODEL["encoders"], img_size=64, **settings)
    return model.eval()


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each batch of images that went through frozen encoders."""
    calls: list[int] = []
    compute = FrozenFeatures._compute

    def count(self: FrozenFeatures, images: torch.Tensor, spread: bool = False) -> Any:
        calls.append(len(images))
        return compute(self, images, spread)

    monkeypatch.setattr(FrozenFeatures, "_compute", count)
    return calls


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    return ImageCache((64, 64), mode="RGB", folder=tmp_path / "cache")


def test_vectors_are_the_pooled_maps_of_the_network(phantoms: Path, cache: ImageCache) -> None:
    model, records = network(), read_records(phantoms)[:5]
    features = FrozenFeatures(model, cache, amp="fp32")
    features.build(records)
    features.load(records)
    preprocessing = Preprocessing.from_model(model)
    images = to_batch([cache.load(r.path) for r in records])
    with torch.no_grad():
        expected = model.pool_maps(model.forward_maps(preprocessing.normalize(images)))
    found = head_inputs(model, torch.from_numpy(np.array(features.vectors[:, 0])))
    assert [tuple(x.shape) for x in found] == [(5, width) for width in model.widths]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_stored_sides_are_those_of_the_maps(phantoms: Path, cache: ImageCache, forwards: list[int]) -> None:
    model, records = network(), read_records(phantoms)[:5]
    features = FrozenFeatures(model, cache, amp="fp32", views=2)
    features.load(records)
    x = Preprocessing.from_model(model).normalize(to_batch([cache.load(r.path) for r in records]))
    for view, images in ((0, x), (MIRRORED, x.flip(3))):
        with torch.no_grad():
            expected = join_sides([sides(m) for m in model.forward_maps(images)], model.groups)
        found = stored_sides(model, features.sides(records, view))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    assert len(forwards) == 2  # those of the images came with the pooled maps
    again = FrozenFeatures(model, cache, amp="fp32")
    again.load(records)
    np.testing.assert_array_equal(again.sides(records, MIRRORED), features.sides(records, MIRRORED))
    assert len(forwards) == 2


def test_spreads_are_the_standard_deviations_of_the_maps(
    phantoms: Path, cache: ImageCache, forwards: list[int]
) -> None:
    model, records = network(), read_records(phantoms)[:5]
    features = FrozenFeatures(model, cache, amp="fp32")
    found = features.spreads(records)
    features.load(records)
    features.sides(records)
    assert len(forwards) == 1  # the same pass made all of them
    images = Preprocessing.from_model(model).normalize(to_batch([cache.load(r.path) for r in records]))
    with torch.no_grad():
        expected = np.concatenate([m.numpy().std((2, 3)) for m in model.forward_maps(images)], 1)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-3)
    np.testing.assert_array_equal(FrozenFeatures(model, cache, amp="fp32").spreads(records), found)
    assert len(forwards) == 1
    assert features.spreads([]).shape == (0, features.width)


def test_a_cache_of_earlier_versions_stays_valid(phantoms: Path, cache: ImageCache, forwards: list[int]) -> None:
    records = read_records(phantoms)[:5]
    first = FrozenFeatures(network(), cache, amp="fp32")
    expected = first.sides(records)  # writes the pooled maps, too
    for record in records:
        for kept in first._sides[0]:
            Path(kept._entry(record.path)[0]).unlink()
    features = FrozenFeatures(network(), cache, amp="fp32")
    features.load(records)
    assert len(forwards) == 1
    np.testing.assert_array_equal(features.sides(records), expected)
    assert len(forwards) == 2


def test_an_images_vectors_do_not_depend_on_the_others(phantoms: Path, tmp_path: Path) -> None:
    model, records = network(), read_records(phantoms)[: BATCH + 3]
    vectors = []
    for name, chosen in (("all", records), ("few", records[-2:])):
        features = FrozenFeatures(model, ImageCache((64, 64), mode="RGB", folder=tmp_path / name), amp="fp32")
        features.load(chosen)
        vectors.append(np.array(features.vectors[-2:]))
    np.testing.assert_array_equal(*vectors)


def test_views_depend_on_seed_number_and_pixels_alone(phantoms: Path, tmp_path: Path) -> None:
    model, records = network(), read_records(phantoms)[:4]

    def vectors(folder: str, chosen: Any, seed: int = 1) -> np.ndarray:
        cache = ImageCache((64, 64), mode="RGB", folder=tmp_path / folder)
        features = FrozenFeatures(model, cache, amp="fp32", views=3, augmentation=Augmentation(), seed=seed)
        features.load(chosen)
        return np.array(features.vectors)

    first = vectors("one", records)
    np.testing.assert_array_equal(first, vectors("two", records[::-1])[::-1])
    assert not np.array_equal(first[:, 0], first[:, 1])
    assert not np.array_equal(first[:, 1], first[:, 2])
    renamed = [replace(r, name=f"elsewhere/{r.name}") for r in records]
    np.testing.assert_array_equal(first, vectors("three", renamed))
    other = vectors("one", records, seed=2)
    np.testing.assert_array_equal(first[:, 0], other[:, 0])  # the image itself
    assert not np.array_equal(first[:, 1], other[:, 1])


def test_only_what_is_missing_or_changed_is_computed(
    phantoms: Path, tmp_path: Path, cache: ImageCache, forwards: list[int]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantoms.parent, data)
    model, records = network(), read_records(data)[:6]
    FrozenFeatures(model, cache, amp="fp32").build(records)
    assert forwards == [BATCH]
    same_encoders = network(num_classes=2, hidden_sizes=())
    same_encoders.encoders.load_state_dict(model.encoders.state_dict())
    FrozenFeatures(same_encoders, cache, amp="fp32").build(records)
    assert forwards == [BATCH]  # other heads share them
    shutil.copyfile(records[1].path, records[0].path)
    features = FrozenFeatures(model, cache, amp="fp32")
    features.load(records)
    assert forwards == [BATCH] * 2
    np.testing.assert_array_equal(features.vectors[0], features.vectors[1])
    FrozenFeatures(network(seed=1), cache, amp="fp32").build(records)
    assert len(forwards) == 3  # other weights
    one: Any = timm.create_model("cvrnet", encoders=MODEL["encoders"][:1], img_size=64).eval()
    one.encoders[0].load_state_dict(model.encoders[0].state_dict())
    FrozenFeatures(one, cache, amp="fp32").build(records)
    assert len(forwards) == 3  # an encoder of a pair alone


def test_an_image_that_changes_meanwhile_is_computed_again(
    phantoms: Path, tmp_path: Path, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors of the old picture are never kept as those of the new one."""
    data = tmp_path / "data"
    shutil.copytree(phantoms.parent, data)
    features, records = FrozenFeatures(network(), cache, amp="fp32"), read_records(data)[:2]
    compute, old = features._compute, read_image(records[0].path)

    def change(images: torch.Tensor, spread: bool = False) -> Any:
        if np.array_equal(read_image(records[0].path), old):
            shutil.copyfile(records[1].path, records[0].path)
        return compute(images, spread)

    monkeypatch.setattr(features, "_compute", change)
    features.load(records)
    np.testing.assert_array_equal(features.vectors[0], features.vectors[1])


def test_a_full_disk_leaves_no_half_entry(phantoms: Path, cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    records = read_records(phantoms)[:2]
    features = FrozenFeatures(network(), cache, amp="fp32")
    cache.build(records)
    before = sorted(path for path in cache.folder.rglob("*") if path.is_file())

    def full(path: str, content: bytes, sync: bool) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr("cvrnet.data.array_files.write_private", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        features.build(records)
    assert sorted(path for path in cache.folder.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("hidden", [(512, 128, 64), ()], ids=["papers", "linear"])
def test_the_folded_head_answers_as_the_standardised_one(hidden: tuple[int, ...]) -> None:
    model = network(hidden_sizes=hidden)
    vectors = torch.randn(40, sum(c for e in model.encoders for c in e.channels)) * 3 + 5  # type: ignore[union-attr]
    head = StandardizedHead(model.head, model, vectors.mean(0), vectors.std(0)).eval()
    with torch.no_grad():
        folded = head.folded()(head_inputs(model, vectors))
        torch.testing.assert_close(folded, head(vectors), atol=1e-4, rtol=1e-4)
    assert isinstance(head.head, MultiScaleAveragingHead)


def test_the_standardisation_is_scikit_learns() -> None:
    vectors = np.random.default_rng(0).normal(3, 2, (30, 2, 7)).astype(np.float32)
    vectors[..., 4] = 0.1  # a dead channel, whose rounding is not its deviation
    mean, std = mean_std(vectors, range(5, 25))
    scaler = StandardScaler().fit(vectors[5:25].reshape(-1, 7))
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(std, scaler.scale_, rtol=1e-6)


def test_each_epoch_takes_one_view_of_each_image() -> None:
    vectors = np.arange(2 * 3, dtype=np.float32).reshape(2, 3, 1)
    items = ViewVectors(vectors, [1, 0], [0, 1], seed=0)
    seen = {(i, float(items[epoch, i][0])) for epoch in range(1, 40) for i in (0, 1)}
    assert seen == {(0, 3.0), (0, 4.0), (0, 5.0), (1, 0.0), (1, 1.0), (1, 2.0)}
    assert [float(items[7, 1][0]) for _ in range(3)] == [float(items[7, 1][0])] * 3


@pytest.mark.both_precisions
def test_only_the_heads_train_and_the_checkpoint_is_an_ordinary_one(phantoms: Path, tmp_path: Path) -> None:
    metrics = train(phantoms, tmp_path / "run", CONFIG, test_source="site-b", **PLAIN)
    torch.manual_seed(CONFIG.seed)
    start = cvrnet.create_model("cvrnet", encoders=MODEL["encoders"], num_classes=3, img_size=64)
    trained = load_file(tmp_path / "run/model.safetensors")
    same = {name: torch.equal(tensor, trained[name]) for name, tensor in start.state_dict().items()}
    assert all(equal for name, equal in same.items() if name.startswith("encoders."))
    assert not any(equal for name, equal in same.items() if name.startswith("head."))

    history = rows(tmp_path / "run/history.csv")
    best = [row for row in history if row["best"] == "1"][-1]
    assert float(best["val_loss"]) == metrics["val"]["log_loss"]
    written = rows(tmp_path / "run/predictions.csv")
    paths = [phantoms.parent / row["path"] for row in written]
    for row, answer in zip(written, Predictor.from_pretrained(tmp_path / "run")(paths), strict=True):
        found = [float(row[f"prob_{name}"]) for name in metrics["val"]["classes"]]
        np.testing.assert_allclose(found, answer.probabilities, atol=5e-3)
    assert not (tmp_path / "run" / STATE).exists()
    assert len(Predictor.from_pretrained(tmp_path / "run")(paths[:1], heads=True)[0].heads) == 5  # type: ignore[arg-type]


def test_an_interrupted_training_ends_the_same(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forwards: list[int]
) -> None:
    monkeypatch.setattr(FrozenEncoders, "save_seconds", 0.0)
    config = replace(CONFIG, epochs=4, views=2, ema_decay=0.9)
    train(phantoms, tmp_path / "whole", config, **PLAIN)
    computed = len(forwards)

    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    stopping = Callbacks(training=lambda name, fold: Progress(end=stop))
    with pytest.raises(KeyboardInterrupt):
        train(phantoms, tmp_path / "stopped", config, callbacks=stopping, **PLAIN)
    train(phantoms, tmp_path / "stopped", config, resume=True, **PLAIN)
    assert len(forwards) == computed  # the features were there
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


def test_all_folds_share_the_features(phantoms: Path, tmp_path: Path, forwards: list[int]) -> None:
    config = replace(CONFIG, seed=3)  # other random encoders than those of the other tests
    cross_validate(phantoms, tmp_path / "run", config, n_folds=3, test_source="site-b", **PLAIN)
    assert len(forwards) == -(-len(read_records(phantoms)) // BATCH)
    first, second = (load_file(tmp_path / f"run/fold-{k}/model.safetensors") for k in (1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first if name.startswith("encoders."))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert len(summary["independent"]["folds"]) == 3


def test_logits_can_be_averaged(phantoms: Path, tmp_path: Path) -> None:
    train(phantoms, tmp_path / "run", replace(CONFIG, model_kwargs={"average": "logits"}), **PLAIN)
    written = rows(tmp_path / "run/predictions.csv")
    answers = Predictor.from_pretrained(tmp_path / "run")([phantoms.parent / row["path"] for row in written])
    found = [[float(row[f"prob_{name}"]) for name in ("CVP", "NCP", "NOR")] for row in written]
    np.testing.assert_allclose(found, [answer.probabilities for answer in answers], atol=5e-3)


def test_encoders_stay_for_some_epochs_then_train(phantoms: Path, tmp_path: Path) -> None:
    config = TrainConfig(**{**TINY, "epochs": 3, "freeze": 2})
    states: list[dict[str, torch.Tensor]] = []
    folder = tmp_path / "run"

    def keep(row: dict[str, Any]) -> None:
        saved = torch.load(next(folder.parent.rglob(STATE)), weights_only=True)["model"]
        states.append({name: tensor.clone() for name, tensor in saved.items() if name.startswith("encoders.")})

    train(phantoms, folder, config, callbacks=Callbacks(training=lambda *_: Progress(end=keep)), **PLAIN)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])  # batch norm's statistics, too
    assert not all(torch.equal(states[1][name], states[2][name]) for name in states[1])
    assert load_checkpoint(folder).training is False


def test_what_cannot_be_frozen_is_refused(phantoms: Path, tmp_path: Path) -> None:
    for freeze in ("all", 1):
        config = TrainConfig(model="test_resnet", pretrained=False, img_size=64, freeze=freeze)
        with pytest.raises(UserError, match=r"freeze=.* needs a CVR-Net, but test_resnet is not one"):
            train(phantoms, tmp_path / "run", config, **PLAIN)
        assert not (tmp_path / "run/run.json").exists()
    for wrong in ("some", -1, 1.5):
        with pytest.raises(UserError, match="expected all, or a number of epochs"):
            TrainConfig(freeze=wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="views=0"):
        TrainConfig(views=0)
    with pytest.raises(UserError, match="views=3 needs freeze='all', and freeze is 2"):
        TrainConfig(views=3, freeze=2)
