"""Test whether two pictures come from one X-ray exposure: align them, and compare their fine details."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from cvrnet.audit.local_features import VARIANTS, root

MIN_MATCHES = 20  # least number of features that agree on one affine map
MIN_OVERLAP = 0.35  # least overlap, as a share of the smaller picture
SAME = 0.95  # least correlation of the fine details
NEARLY_SAME, MANY_MATCHES = 0.8, 90  # least correlation of the fine details, if at least MANY_MATCHES features agree
RATIO = 0.92  # largest ratio: distance to the nearest feature / distance to the second nearest feature (Lowe)


@dataclass(frozen=True)
class Alignment:
    """The result of aligning two pictures: how well they match afterwards."""

    correlation: float  # correlation of the fine details where the pictures overlap, -1 to 1
    overlap: float  # area of the overlap, as a share of the smaller picture
    matches: int  # number of features that agree on one affine map
    variant: str  # the change that was applied to the first picture, a key of VARIANTS

    @property
    def same(self) -> bool:
        """Whether both pictures come from one X-ray exposure.

        A correlation of 0.8 is enough only if many features agree: two different exposures of one patient can also
        reach 0.8, but fewer features agree.
        """
        least = NEARLY_SAME if self.matches >= MANY_MATCHES else SAME
        return self.correlation >= least and self.overlap >= MIN_OVERLAP


def align(
    first: np.ndarray,
    second: np.ndarray,
    points: tuple[np.ndarray, ...],
    descriptors: tuple[np.ndarray, ...],
    variant: str = "as it is",
) -> Alignment | None:
    """Align the second picture, uint8 (h, w), with the first, uint8 (H, W), and return how well they match.

    ``points`` and ``descriptors`` describe the local features of both pictures. Each has one array for the first
    picture, and one for the second. The points are (n, 2), and the descriptors are uint8 (n, 128). ``variant``, a key
    of `VARIANTS`, is a change such as ``mirrored``. Before the comparison, this function applies the change to the
    first picture, its points and its descriptors.

    The result is None if no plausible affine map fits at least `MIN_MATCHES` features, if fewer than 400 pixels
    overlap, or if a picture is constant in the overlap.
    """
    if min(len(p) for p in points) < MIN_MATCHES:
        return None
    origin, target = points[0].copy(), points[1]
    if variant == "mirrored":
        first, origin[:, 0] = np.ascontiguousarray(first[:, ::-1]), first.shape[1] - 1 - origin[:, 0]
    elif variant == "negative":
        first = 255 - first
    # Keep pairs of features that are each other's nearest neighbour, and clearly nearer than the second nearest.
    cosine = root(descriptors[0][:, VARIANTS[variant]]) @ root(descriptors[1]).T
    two = np.partition(cosine, -2, axis=1)[:, -2:]
    forward, back = cosine.argmax(1), cosine.argmax(0)
    mutual = back[forward] == np.arange(len(origin))
    clear = np.sqrt(np.maximum(1 - two[:, 1], 0)) <= RATIO * np.sqrt(np.maximum(1 - two[:, 0], 0))
    chosen = np.flatnonzero(mutual & clear)
    if len(chosen) < MIN_MATCHES:
        return None
    affine, inliers = cv2.estimateAffine2D(
        origin[chosen], target[forward[chosen]], method=cv2.RANSAC, ransacReprojThreshold=3.0, maxIters=400
    )
    if affine is None or not _plausible(affine) or (matches := int(inliers.sum())) < MIN_MATCHES:
        return None
    if np.linalg.det(affine[:, :2]) < 1:  # warp the finer picture to the coarser grid: no detail is interpolated
        first, second, affine = second, first, cv2.invertAffineTransform(affine)
    best = _compare(first, second, affine)
    if best and 0.65 <= best[0] < SAME:  # perhaps the map is off by a pixel
        best = max(best, _refine(first, second, affine) or best)
    return Alignment(*best, matches, variant) if best else None


def _plausible(affine: np.ndarray) -> bool:
    """Return whether an affine map is plausible for two pictures of one exposure.

    A plausible map does not mirror. It scales by factors between 1/3 and 3, and the largest factor is less than 1.5
    times the smallest.
    """
    linear = affine[:, :2]
    scales = np.linalg.svd(linear, compute_uv=False)
    return bool(np.linalg.det(linear) > 0 and scales[1] > 1 / 3 and scales[0] < 3 and scales[0] < 1.5 * scales[1])


def _compare(first: np.ndarray, second: np.ndarray, affine: np.ndarray) -> tuple[float, float] | None:
    """Warp the second picture onto the first; return the correlation of the fine details, and the overlap.

    The result is None if fewer than 400 pixels overlap, or if a picture is constant in the overlap.
    """
    size = first.shape[1], first.shape[0]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(second, affine, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.full(second.shape, 255, np.uint8), affine, size, flags=flags) > 250
    area = second.size / abs(np.linalg.det(affine[:, :2]))
    overlap = float(min(inside.sum() / min(first.size, area), 1.0))
    a, b = _details(first), _details(moved)
    a, b = a[inside], b[inside]
    if a.size < 400 or not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1]), overlap


def _refine(first: np.ndarray, second: np.ndarray, affine: np.ndarray) -> tuple[float, float] | None:
    """Refine the affine map with ECC (Evangelidis and Psarakis 2008), then compare the pictures (`_compare`).

    The result is None if ECC does not converge, or if `_compare` returns None.
    """
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 1e-4)
    details = [cv2.GaussianBlur(_details(picture), (0, 0), 1).astype(np.float32) for picture in (first, second)]
    try:
        _, better = cv2.findTransformECC(*details, affine.astype(np.float32), cv2.MOTION_AFFINE, criteria)
    except cv2.error:  # ECC does not converge on pictures that have little in common
        return None
    return _compare(first, second, better)


def _details(picture: np.ndarray) -> np.ndarray:
    """Return the details of a picture that are finer than about six pixels, scaled to equal local contrast.

    The brightness and the gross anatomy are removed.
    """
    values = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.8)
    values -= cv2.GaussianBlur(values, (0, 0), 4)
    return values / np.sqrt(cv2.blur(values * values, (25, 25)) + 4)
