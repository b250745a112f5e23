"""Deep grey: a few pixels do not move a picture, and models of version 1 see what they were trained on."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cvrnet.data import read_image
from cvrnet.data.grey import TAIL, bits_in_use, by_bits_in_use, by_value, robust_ends

MANY = {"max_examples": 60, "deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
SMOOTH = np.add.outer(np.linspace(0.2, 0.6, 64), np.linspace(0, 0.4, 64))  # 0.2 to 1


def picture(tmp_path, values: np.ndarray, suffix: str = "png", **version) -> np.ndarray:
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    return read_image(tmp_path / f"a.{suffix}", **version).astype(int)


@given(
    top=st.integers(256, 65535) | st.sampled_from([2**n + d for n in range(8, 16) for d in (-1, 0, 1, 5)]),
    few=st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 65535)), min_size=1, max_size=6),
    suffix=st.sampled_from(["png", "tif"]),
)
@settings(**MANY)
def test_a_few_pixels_do_not_move_a_picture(tmp_path, top, few, suffix):
    values = np.rint(SMOOTH * top).astype(np.uint16)
    before = picture(tmp_path, values, suffix)
    changed = values.copy()
    changed.flat[[place for place, _ in few]] = [value for _, value in few]
    after = picture(tmp_path, changed, suffix)
    # Six of 4,096 pixels move the value that all but 0.5 % need by up to 0.6 %, and the range grows 8 times as fast.
    # (Doubled, it would change white by 128 and the mean by 60.)
    assert np.abs(after - before)[changed == values].max() <= 16
    assert abs(after.mean() - before.mean()) < 10
    assert before.mean() > 60


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
@pytest.mark.parametrize("bits", range(8, 17))
def test_the_bits_in_use_are_kept_exactly(tmp_path, bits, kind):
    """As bright as the original of 8 bits: value >> (bits - 8), also beside hot pixels."""
    values = np.rint(SMOOTH * (2**bits - 1)).astype(kind)
    hot = values.copy()
    hot[0, :3] = 65535
    found = picture(tmp_path, hot, "tif")
    np.testing.assert_array_equal(found[1:], values[1:] >> (bits - 8))
    assert (found[0, :3] == 255).all()
    np.testing.assert_array_equal(picture(tmp_path, values, "tif", grey_version=1), values >> (bits - 8))


def test_version_1_counts_every_pixel(tmp_path):
    values = np.rint(SMOOTH * 4095).astype(np.uint16)
    values[0, 0] = 4096
    np.testing.assert_array_equal(picture(tmp_path, values, grey_version=1), values >> 5)
    np.testing.assert_array_equal(picture(tmp_path, values)[1:], values[1:] >> 4)


def test_a_hot_pixel_does_not_blacken_floats(tmp_path):
    values = SMOOTH.astype(np.float32)
    before = picture(tmp_path, values, "tif")
    np.testing.assert_array_equal(before, np.rint(values * 255))
    values[0, 0] = 1.5
    np.testing.assert_array_equal(picture(tmp_path, values, "tif")[1:], before[1:])
    assert picture(tmp_path, values, "tif", grey_version=1).max() == 2


def test_the_range_has_no_jump():
    """One more grey level at the top changes the picture's white by less than a hundredth."""
    tops = np.arange(200, 40000)
    grey = np.array([by_bits_in_use(np.array([200, top]), np.array([100, 100]))[0] for top in tops])
    white = 200 * 256 / np.maximum(grey, 1)
    assert (np.abs(np.diff(grey)) <= 8).all()
    assert white.max() > white.min()


@pytest.mark.parametrize("value", [1, 255, 256, 65535])
def test_a_small_mask_is_not_lost(tmp_path, value):
    mask = np.zeros((100, 100), np.uint16)
    mask[4:7, 4:7] = value
    np.testing.assert_array_equal(picture(tmp_path, mask) > 0, mask > 0)


@given(st.lists(st.tuples(st.integers(-2000, 2000), st.integers(1, 500)), min_size=1, max_size=30))
@settings(**MANY)
def test_the_ends_are_numpys_quantiles(pairs):
    values, counts = (np.array(column) for column in zip(*pairs, strict=True))
    every = np.repeat(values, counts)
    low, high = robust_ends(values, counts)
    if np.quantile(every, TAIL, method="higher") != np.quantile(every, 1 - TAIL, method="lower"):
        assert (every < low).mean() <= TAIL
        assert (every > high).mean() <= TAIL
        assert (every <= low).mean() > TAIL
        assert (every >= high).mean() >= TAIL
    assert set(robust_ends(every, None)) <= set(every.astype(float))


@given(st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.int32]))
@settings(deadline=None)
def test_each_pixel_gets_what_its_value_gets(seed, kind):
    rng, limits = np.random.default_rng(seed), np.iinfo(np.int16 if kind is np.int32 else kind)
    pixels = rng.integers(limits.min, limits.max, (7, 9), endpoint=True).astype(kind)
    found = by_value(pixels, lambda values, counts: values % kind(101))
    np.testing.assert_array_equal(found, pixels % kind(101))
    counted = rng.random(pixels.shape) < 0.5
    if kind is not np.int32 and counted.any():
        seen = []
        by_value(pixels, lambda values, counts: seen.append(np.repeat(values, counts)) or values * 0, counted)
        np.testing.assert_array_equal(np.sort(pixels[counted]), np.sort(seen[0]))


def test_bits_in_use():
    assert [bits_in_use(np.full((9, 9), top)) for top in (0, 255, 256, 4095, 65535)] == [0, 8, 9, 12, 16]
