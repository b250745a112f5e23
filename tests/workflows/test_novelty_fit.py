"""What is fitted to the maps of training images: the distance, and what tells mirrored images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

import cvrnet
from cvrnet.data import Record, read_records
from cvrnet.heads.novelty import join_inputs, join_sides, sides
from cvrnet.metrics.novelty import unlike
from cvrnet.training.novelty import LEAST_IMAGES, fit_novelty, fit_sides
from cvrnet.workflows.novelty import MOST_IMAGES, _draw


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
