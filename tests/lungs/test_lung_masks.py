"""Masks of the lungs: what is masked and cropped, what is implausible, and how masks are compared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import directed_hausdorff
from sklearn.metrics import f1_score

from cvrnet.data.lung_finder import LungFinder
from cvrnet.data.lung_masks import LungSettings, mask_problem, read_mask
from cvrnet.errors import UserError
from cvrnet.lungs import mask_quality
from cvrnet.workflows.lung_sheet import caption_lines

masks = hnp.arrays(bool, st.tuples(st.integers(2, 24), st.integers(2, 24))).filter(np.any)
margins = st.floats(0, 0.5)


def lungs(height=60, width=80, *boxes):
    """A mask of boxes (top, left, bottom, right); of two lobes by default."""
    mask = np.zeros((height, width), bool)
    for top, left, bottom, right in boxes or ((10, 10, 50, 35), (10, 45, 50, 70)):
        mask[top:bottom, left:right] = True
    return mask


@settings(deadline=None)
@given(masks, margins)
def test_the_box_holds_the_mask_and_is_inside_the_picture(mask, margin):
    top, left, bottom, right = LungSettings("crop", margin).box(mask)
    assert 0 <= top < bottom <= mask.shape[0]
    assert 0 <= left < right <= mask.shape[1]
    assert mask[top:bottom, left:right].sum() == mask.sum()
    rows, columns = np.nonzero(mask)
    more = round(margin * max(mask.shape))
    assert rows.min() - top <= more
    assert right - 1 - columns.max() <= more


@settings(deadline=None)
@given(masks, margins, st.sampled_from([(), (3,)]))
def test_pixels_in_the_mask_are_kept_and_those_beyond_the_margin_are_black(mask, margin, channels):
    picture = np.full((*mask.shape, *channels), 200, np.uint8)
    shown = LungSettings("mask", margin).cut(picture, mask)
    assert shown.shape == picture.shape
    assert (shown[mask] == 200).all()
    rows, columns = np.nonzero(mask)
    more = round(margin * max(mask.shape))
    for row, column in np.argwhere(~mask):
        near = (np.maximum(abs(rows - row), abs(columns - column)) <= more).any()
        assert (shown[row, column] == (200 if near else 0)).all()


@given(st.sampled_from(["mask", "crop"]), margins)
def test_a_mask_of_everything_changes_nothing_and_settings_are_read_back(mode, margin):
    picture = np.arange(48, dtype=np.uint8).reshape(6, 8)
    chosen = LungSettings(mode, margin)
    assert np.array_equal(chosen.cut(picture, np.ones_like(picture, bool)), picture)
    assert LungSettings.parse(str(chosen)) == chosen


@pytest.mark.parametrize("text", ["box 0.1", "mask", "mask x", "crop 0.6", "crop nan", "mask -1", "crop 0.1 0.1"])
def test_settings_from_elsewhere(text):
    with pytest.raises(UserError, match="lung settings"):
        LungSettings.parse(text)


@settings(deadline=None)
@given(hnp.arrays(bool, (2, 9, 11)))
def test_quality_as_scikit_learn_and_scipy_have_it(pair):
    found, truth = pair
    quality = mask_quality(found, truth)
    assert quality["dice"] == pytest.approx(f1_score(truth.ravel(), found.ravel(), zero_division=1.0))
    if found.any() and truth.any():
        one, other = (np.argwhere(m & ~binary_erosion(m)) for m in pair)
        both = max(directed_hausdorff(one, other)[0], directed_hausdorff(other, one)[0])
        assert quality["hausdorff"] == pytest.approx(both)
        assert quality["hausdorff95"] <= quality["hausdorff"] + 1e-9
    else:
        assert np.isnan(quality["hausdorff"])


def test_two_lobes_are_plausible():
    assert mask_problem(lungs()) == ""
    joined = lungs(60, 80, (10, 10, 50, 70))
    assert mask_problem(joined) == "", "one part that reaches well into both halves"


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (lungs() & False, "the mask is empty"),
        (lungs(60, 80, (20, 20, 30, 30), (20, 40, 30, 50)), "its area is 4%"),
        (~lungs(60, 80, (28, 38, 32, 42)), "its area is"),
        (lungs(60, 80, (0, 10, 60, 35), (0, 45, 60, 70)), "of the picture's border"),
        (lungs(60, 80, (10, 10, 50, 35)), "one lung"),
        (lungs(60, 80, (5, 10, 27, 70), (32, 10, 55, 70)), "one above the other"),
        (lungs(60, 80, (10, 5, 50, 20), (10, 30, 50, 45), (10, 55, 50, 75)), "3 parts"),
        (lungs(60, 80, (10, 10, 50, 40), (10, 50, 20, 65)), "its smaller lung is"),
    ],
)
def test_implausible_masks(mask, problem):
    assert problem in mask_problem(mask)


def test_captions_are_not_cut_within_a_word():
    assert caption_lines(mask_problem(lungs(60, 80, (10, 10, 50, 40), (10, 50, 20, 65)))).split("\n") == [
        "its smaller lung is 11% of the",
        "mask; expected at least 20%",
    ]
    assert caption_lines("its area is 4% of the picture") == "its area is 4% of the picture"
    long = caption_lines("covid-19-rapidly-progressive-acute-respiratory-distress-syndrome-ards-day-1")
    assert [len(line) <= 34 for line in long.split("\n")] == [True, True]
    assert long.endswith("...")


def test_masks_that_cannot_be_used_leave_the_picture_whole(tmp_path):
    picture = np.full((60, 80), 100, np.uint8)
    files = {
        "good": lungs(),
        "double": np.kron(lungs(), np.ones((2, 2), bool)),
        "black": lungs() & False,
        "tall": lungs(80, 60, (10, 5, 70, 25), (10, 35, 70, 55)),
        "one": lungs(60, 80, (10, 10, 50, 35)),
    }
    for name, mask in files.items():
        Image.fromarray(mask).convert("L").save(tmp_path / f"{name}.png")
    assert np.array_equal(read_mask(tmp_path / "double.png", picture.shape), lungs()), "another size, the same shape"
    given = {tmp_path / f"film-{name}": tmp_path / f"{name}.png" for name in files}
    finder = LungFinder(LungSettings("crop", 0.0), given, whole_without=True)
    for name in files:
        shown, box = finder.cut(tmp_path / f"film-{name}", picture)
        assert shown.shape == ((40, 60) if name in ("good", "double") else picture.shape), name
        assert (box == (10, 10, 50, 70)) == (name in ("good", "double"))
    assert {path.name: reason for path, reason in finder.whole.items()} == {
        "film-black": "its mask black.png cannot be used: the mask is empty",
        "film-tall": "its mask tall.png cannot be used: the mask has 60 x 80 pixels, the image 80 x 60; "
        "expected the same aspect ratio",
        "film-one": "its mask is implausible: it has one lung; expected two",
    }
    assert finder.cut(tmp_path / "another", picture)[0] is picture
