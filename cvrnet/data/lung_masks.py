"""Read masks of the lungs, detect implausible masks, and mask or crop pictures with plausible masks.

A wrong mask does more harm than no mask, because it hides the disease or a part of it. If a mask is implausible, the
picture is therefore used whole, and the reason is reported. In the code, a lobe is one connected part of a mask, which
normally is one lung; it is not an anatomical lobe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvrnet.data.image import ImageError, read_image
from cvrnet.errors import UserError

MODES = ("mask", "crop")
MOST_MARGIN = 0.5
LEAST_AREA, MOST_AREA = 0.1, 0.7  # share of the picture inside the mask; in 95 masks by radiologists: 0.20 to 0.59
LEAST_LOBE = 0.2  # least share of the mask in the smaller lung; least in the radiologists' masks: 0.41
SPECK = 0.1  # share of the mask; parts with a smaller share are not counted
MOST_BORDER = 0.15  # share of the picture's border that the mask may touch; most in the radiologists' masks: 0.11

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]  #: top, left, bottom, right in pixels; bottom and right are exclusive


@dataclass(frozen=True)
class LungSettings:
    """Settings for blacking out a picture outside the lungs, or cropping it to the lungs, before it is resized.

    ``"mask"`` multiplies the picture by the mask: everything outside the mask becomes black. ``"crop"`` keeps the
    mask's bounding box. The mask or the box is first enlarged by the margin on every side.
    """

    mode: str  #: one of `MODES`
    margin: float = 0.05  #: share of the picture's longer side, 0 to 0.5

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"lungs={self.mode!r:.20}; expected {' or '.join(MODES)}")
        if isinstance(self.margin, bool) or not isinstance(self.margin, int | float) or not 0 <= self.margin <= 0.5:
            raise UserError(f"lungs_margin={self.margin!r:.20}; expected a number from 0 to {MOST_MARGIN}")

    def __str__(self) -> str:
        return f"{self.mode} {self.margin!r}"

    @classmethod
    def parse(cls, text: str) -> LungSettings | None:
        """Return the settings whose ``str`` is this text; None for ``""``; UserError for any other text."""
        if not text:
            return None
        mode, _, margin = text.partition(" ")
        try:
            return cls(mode, float(margin))
        except ValueError as error:
            raise UserError(f"lung settings {text!r:.40} are not known: {error}") from error

    def box(self, mask: Mask) -> Box:
        """Return the bounding box of a mask, enlarged by the margin and clipped at the picture's border.

        >>> LungSettings("crop", 0.0).box(np.eye(4, dtype=bool)[:, :3])
        (0, 0, 3, 3)
        """
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        more = round(self.margin * max(mask.shape))
        top, left = max(rows[0] - more, 0), max(columns[0] - more, 0)
        bottom, right = (min(last[-1] + 1 + more, n) for last, n in zip((rows, columns), mask.shape, strict=True))
        return int(top), int(left), int(bottom), int(right)

    def cut(self, picture: NDArray[np.uint8], mask: Mask) -> NDArray[np.uint8]:
        """Return the picture (H, W) or (H, W, 3), masked or cropped with a mask (H, W) that is not empty."""
        if self.mode == "crop":
            top, left, bottom, right = self.box(mask)
            return picture[top:bottom, left:right]
        kept = widened(mask, round(self.margin * max(mask.shape)))
        return picture * (kept if picture.ndim == 2 else kept[..., None])


def widened(mask: Mask, pixels: int) -> Mask:
    """Return the mask, dilated by this number of pixels in every direction (with a square of side 2 * pixels + 1)."""
    if not pixels:
        return mask
    from scipy.ndimage import maximum_filter  # here, because scipy is an extra

    wide: Mask = maximum_filter(mask, 2 * pixels + 1, mode="constant")
    return wide


def read_mask(path: Path, shape: tuple[int, ...]) -> Mask:
    """Read a lung mask as bool (H, W), resized to the picture's ``shape``.

    Raises:
        UserError: The mask cannot be read, is empty, or has another aspect ratio than the picture.
    """
    mask = read_image(path)
    mask = mask > mask.max() // 2
    if not mask.any():
        raise ImageError(path, "the mask is empty")
    if abs(np.log(mask.shape[1] * shape[0] / (mask.shape[0] * shape[1]))) > 0.02:
        sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, the image {shape[1]} x {shape[0]}"
        raise ImageError(path, f"the mask has {sizes}; expected the same aspect ratio")
    if mask.shape == shape:
        return mask
    return np.array(Image.fromarray(mask).resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def enlarge_mask(grid: NDArray[np.uint8], shape: tuple[int, ...]) -> Mask:
    """Turn a grid of probabilities, scaled to 0 to 255, into a mask (H, W) for a picture of this shape."""
    large = Image.fromarray(grid).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(large) > 127


def lobes(mask: Mask) -> list[Mask]:
    """Return the connected parts of a mask, the largest first; parts that touch only at corners are connected."""
    from scipy.ndimage import label  # here, because scipy is an extra

    parts, count = label(mask, np.ones((3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    return [parts == 1 + k for k in np.argsort(-sizes, kind="stable")]


def two_lobes(mask: Mask) -> Mask:
    """Return the two largest connected parts of a mask, with their holes filled.

    A part with less than the share `SPECK` of the mask's area is left out.
    """
    from scipy.ndimage import binary_fill_holes

    parts = lobes(mask)[:2]
    kept = [part for part in parts if part.sum() >= SPECK * mask.sum()]
    whole = np.logical_or.reduce(kept) if kept else np.zeros_like(mask)
    return np.asarray(binary_fill_holes(whole), bool)


def border_share(mask: Mask) -> float:
    """Return the share of the picture's border pixels that a mask touches."""
    return float(np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]]).mean())


def mask_problem(mask: Mask) -> str:
    """Return why a mask is not a plausible mask of both lungs on a frontal radiograph; ``""`` if it is plausible.

    A mask is not plausible if it is too small or too large, touches too much of the picture's border, or does not show
    two lungs. Two lungs are two parts side by side, or the halves of one wide part. The smaller lung must have at least
    the share `LEAST_LOBE` of the mask.

    >>> mask_problem(np.zeros((8, 8), bool))
    'the mask is empty'
    """
    if not mask.any():
        return "the mask is empty"
    area = mask.mean()
    if not LEAST_AREA <= area <= MOST_AREA:
        return f"its area is {area:.0%} of the picture; expected {LEAST_AREA:.0%} to {MOST_AREA:.0%}"
    if (border := border_share(mask)) > MOST_BORDER:
        return f"it touches {border:.0%} of the picture's border; expected at most {MOST_BORDER:.0%}"
    return _lobe_problem(mask)


def _lobe_problem(mask: Mask) -> str:
    parts = [part for part in lobes(mask) if part.sum() >= SPECK * mask.sum()]
    if len(parts) > 2:
        return f"it has {len(parts)} parts; expected two lungs"
    spans = sorted((columns[0], columns[-1]) for part in parts for columns in [np.flatnonzero(part.any(0))])
    if len(parts) == 2:
        (_, end), (start, last) = spans
        if max(0, min(end, last) - start) > 0.5 * min(right - left + 1 for left, right in spans):
            return "its two parts lie one above the other; expected them side by side"
        smaller = parts[1].sum() / mask.sum()
    else:
        middle = (spans[0][0] + spans[0][1] + 1) // 2
        smaller = min(mask[:, :middle].sum(), mask[:, middle:].sum()) / mask.sum()
        if spans[0][1] - spans[0][0] < 0.5 * mask.shape[1]:
            return "it has one lung; expected two"
    if smaller < LEAST_LOBE:
        return f"its smaller lung is {smaller:.0%} of the mask; expected at least {LEAST_LOBE:.0%}"
    return ""
