"""Augmentation: settled by the seed, checked against SciPy, which Keras used, and against torchvision's flips."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms.v2 import functional

from cvrnet.data import Augmentation
from cvrnet.data.augmentation import change
from cvrnet.errors import UserError

NONE = Augmentation(rotation_p=0, shift_p=0, hflip_p=0, vflip_p=0)
ALWAYS = Augmentation(rotation_p=1, shift_p=1, hflip_p=1, vflip_p=1)


def turned_and_moved(image, angle, across, down):
    return change(image[None], torch.tensor([[angle, across, down, 0, 0]]))[0]


images = hnp.arrays(np.uint8, st.tuples(st.sampled_from([1, 3]), st.integers(1, 20), st.integers(1, 20))).map(
    torch.from_numpy
)
seeds = st.integers(0, 2**70) | st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))


@settings(deadline=None)
@given(images, seeds)
def test_shape_type_and_values_are_kept_and_the_seed_decides(image, seed):
    before = image.clone()
    found = ALWAYS(image, seed)
    assert found.shape == image.shape
    assert found.dtype == torch.uint8
    assert set(found.unique().tolist()) <= set(image.unique().tolist())
    assert torch.equal(found, ALWAYS(image, seed))
    assert torch.equal(image, before)


@settings(deadline=None)
@given(images, seeds)
def test_nothing_happens_with_probability_0(image, seed):
    assert torch.equal(NONE(image, seed), image)
    assert torch.equal(replace(ALWAYS, rotation_degrees=0, shift=0, hflip_p=0, vflip_p=0)(image, seed), image)


@settings(deadline=None)
@given(images, seeds)
def test_flips_are_those_of_torchvision_and_undo_themselves(image, seed):
    across, down = replace(NONE, hflip_p=1), replace(NONE, vflip_p=1)
    assert torch.equal(across(image, seed), functional.horizontal_flip(image))
    assert torch.equal(down(image, seed), functional.vertical_flip(image))
    for flip in (across, down):
        assert torch.equal(flip(flip(image, seed), seed + 1 if isinstance(seed, int) else seed), image)


@pytest.mark.parametrize("shape", [(64, 64), (61, 97), (120, 50)])
@pytest.mark.parametrize(("angle", "across", "down"), [(15, 0, 0), (-7, 0.1, -0.05), (0, 0.1, 0.07), (180, -0.035, 0)])
def test_turning_and_moving_as_scipy_does(shape, angle, across, down):
    """SciPy with mode "nearest" and order 0: what Keras's ImageDataGenerator does by default, save the order (1)."""
    height, width = shape
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    radians = math.radians(angle)
    # from a pixel (row, column) of the result to that of the image: back by the shift, then about the centre
    matrix = np.array([[math.cos(radians), math.sin(radians)], [-math.sin(radians), math.cos(radians)]])
    centre = (np.array(shape) - 1) / 2
    offset = centre - matrix @ (centre + np.array([down * height, across * width]))
    expected = ndimage.affine_transform(image, matrix, offset, order=0, mode="nearest")
    found = turned_and_moved(torch.from_numpy(image)[None], radians, across, down)[0].numpy()
    assert (found == expected).mean() > 0.99  # pixels whose source lies on the edge of two may differ by rounding


def test_moving_repeats_the_edge():
    image = torch.arange(100, dtype=torch.uint8).reshape(1, 10, 10)
    right = turned_and_moved(image, 0, 0.2, 0)
    assert torch.equal(right[..., 2:], image[..., :-2])
    assert torch.equal(right[..., :2], image[..., :1].expand(1, 10, 2))
    down = turned_and_moved(image, 0, 0, 0.2)
    assert torch.equal(down[:, 2:], image[:, :-2])
    assert torch.equal(down[:, :2], image[:, :1].expand(1, 2, 10))


@settings(deadline=None)
@given(hnp.arrays(np.uint8, (5, 3, 12, 17)).map(torch.from_numpy), st.lists(seeds, min_size=5, max_size=5))
def test_a_batch_is_changed_as_each_image_alone(batch, five):
    found = change(batch, torch.stack([Augmentation().draw(seed) for seed in five]))
    assert torch.equal(
        found, torch.stack([Augmentation()(image, seed) for image, seed in zip(batch, five, strict=True)])
    )


@pytest.mark.parametrize("shape", [(64, 64), (61, 97)])
def test_turning_and_moving_as_torch_does(shape):
    """PyTorch's own sampling, on which the first version was built; it places pixels by fractions of the size."""
    draw = np.random.default_rng(0)
    images = torch.from_numpy(draw.integers(0, 256, (20, 1, *shape)).astype(np.uint8))
    changes = torch.stack([replace(ALWAYS, hflip_p=0, vflip_p=0).draw(seed) for seed in range(20)])
    angle, across, down = changes[:, :3].T
    cos, sin, aspect = angle.cos(), angle.sin(), shape[1] / shape[0]
    first = torch.stack([cos, -sin / aspect, -2 * (across * cos - down * sin / aspect)], 1)
    second = torch.stack([sin * aspect, cos, -2 * (across * sin * aspect + down * cos)], 1)
    matrices = torch.stack([first, second], 1)
    grid = affine_grid(matrices, list(images.shape), align_corners=False)
    expected = grid_sample(images.float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    assert (change(images, changes) == expected).float().mean() > 0.999


def test_the_probabilities_and_ranges_are_those_asked_for():
    image = torch.zeros(1, 2, 2, dtype=torch.uint8)
    image[0, 0, 0] = 1
    flips = Augmentation(rotation_p=0, shift_p=0)
    places = [tuple(flips(image, seed).nonzero()[0].tolist()) for seed in range(4000)]
    angles, across, down, *_ = torch.stack([Augmentation().draw(seed) for seed in range(4000)]).double().numpy().T
    for values, probability, limit in ((angles, 0.45, math.radians(15)), (across, 0.2, 0.1), (down, 0.2, 0.1)):
        used = values[values != 0]
        assert len(used) / 4000 == pytest.approx(probability, abs=0.03)
        assert np.abs(used).max() <= limit * (1 + 1e-6)
        assert used.min() < -0.95 * limit
        assert used.max() > 0.95 * limit
        assert used.mean() == pytest.approx(0, abs=0.1 * limit)
    assert np.mean([column for _, _, column in places]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([row for _, row, _ in places]) == pytest.approx(0.5, abs=0.03)
    assert np.corrcoef(np.array(places)[:, 1:].T)[0, 1] == pytest.approx(0, abs=0.05)


def test_global_random_states_are_neither_used_nor_touched():
    image = torch.arange(3 * 32 * 32, dtype=torch.int32).reshape(3, 32, 32).to(torch.uint8)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = ALWAYS(image, (0, 1, 2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    torch.manual_seed(2)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: ALWAYS(image, (0, 1, 2)), range(20)))
    assert all(torch.equal(first, result) for result in results)
    assert not torch.equal(first, ALWAYS(image, (0, 2, 1)))


def test_recipes():
    assert Augmentation() == Augmentation(0.45, 15, 0.2, 0.1, 0.5, 0.5)
    flip_only = Augmentation(rotation_p=0, shift_p=0)
    image = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3)
    flips = [image, image.flip(-1), image.flip(-2), image.flip(-1, -2)]
    found = [next(k for k, flip in enumerate(flips) if torch.equal(flip, flip_only(image, s))) for s in range(40)]
    assert set(found) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("name", "value"),
    [("rotation_p", -0.1), ("hflip_p", 1.1), ("shift", 2), ("rotation_degrees", 181), ("shift_p", math.nan)],
)
def test_refuses(name, value):
    with pytest.raises(UserError, match=f"^{name} {value} is not possible: expected 0 to "):
        Augmentation(**{name: value})
