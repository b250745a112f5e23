"""Draw a schematic chest CT slice by slice, with exact masks of lungs and lesion, for `cvrnet.data.phantom_studies`.

Within a slice, the unit of length is the height of the slice's picture. The position `z` of a slice goes from the
apices of the lungs (0) to the diaphragm (1). Grey levels are those of a lung window: air black, lung dark, soft tissue
white.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SLICES = (20, 60)  #: the lowest and the highest number of slices of a volume
LESION_SLICES = (3, 6)  #: the lowest and the highest number of slices with a lesion


class DrawnSlice(NamedTuple):
    """One slice: its picture, uint8 (H, W), and the masks of lungs and lesion, bool (H, W)."""

    picture: np.ndarray
    lungs: np.ndarray
    lesion: np.ndarray


def draw_volume(ill: bool, *, seed: int, patient: int, size: int) -> Iterator[DrawnSlice]:
    """Yield the 20 to 60 slices of one CT, from the apices down.

    If the patient is ill, there is one dense lesion in 3 to 6 slices. The seed and the patient's number determine how
    the patient and the lesion look; outside the lesion, the slices do not depend on ``ill``. Exposure, noise and
    vessels differ between patients. In a single slice, a vessel looks like a small lesion. ``size`` is height and width
    in pixels.
    """
    body_rng, lesion_rng, noise_rng = (np.random.default_rng([seed, stream, patient]) for stream in (6, 7, 8))
    count = int(body_rng.integers(SLICES[0], SLICES[1] + 1))
    thorax = _Thorax(body_rng, size)
    lesion = _Lesion(thorax, lesion_rng, count)
    for number in range(count):
        z = (number + 0.5) / count
        lungs = thorax.lungs(z)
        density = thorax.density(z, lungs)
        inside = lesion.at(number) * lungs if ill else np.zeros_like(lungs)
        density = density + (0.9 - density) * 0.85 * inside
        grey = 255 * (thorax.exposure * density + thorax.offset)
        grey = grey + thorax.noise * noise_rng.standard_normal(grey.shape)
        yield DrawnSlice(grey.clip(0, 255).astype(np.uint8), lungs > 0.5, (inside > 0.5) & (lungs > 0.5))


class _Thorax:
    """The anatomy of one patient. Pictures are (size, size): `u` goes from left to right, `v` down, both -0.5..0.5."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        axis = (np.arange(size) + 0.5) / size - 0.5
        self.soft = 1.2 / size  # width of an edge
        self.v, self.u = np.meshgrid(axis - rng.normal(0, 0.015), axis - rng.normal(0, 0.015), indexing="ij")
        self.width, self.depth = rng.normal(0.45, 0.015), rng.normal(0.34, 0.015)
        self.lung_width, self.lung_depth = rng.normal(0.145, 0.008), rng.normal(0.225, 0.012)
        self.heart = rng.uniform(0.09, 0.13)
        self.exposure, self.offset, self.noise = rng.normal(1, 0.06), rng.normal(0, 0.02), rng.uniform(4, 9)
        self.lung_grey = rng.uniform(0.12, 0.24)
        vessels = int(rng.integers(40, 60))
        self.sides = rng.choice((-1, 1), vessels)
        self.starts = rng.uniform((-0.8, -0.8, -0.2), (0.8, 0.8, 1.0), (vessels, 3))
        self.slopes = rng.normal(0, 0.7, (vessels, 2))
        self.lengths = rng.uniform(0.1, 0.5, vessels)
        self.radii = rng.uniform(0.009, 0.019, vessels)

    def lungs(self, z: float) -> np.ndarray:
        """Return the mask of the lungs at the position `z`, (size, size), with values 0..1."""
        wide, deep = self.extent(z)
        left, right = (self.ellipse(side * self.middle(), -0.01, wide, deep) for side in (-1, 1))
        heart = self.ellipse(0.04, -0.07, self.heart * z, self.heart * z) if z > 0.35 else np.zeros_like(self.u)
        return (left + right) * (1 - heart)

    def middle(self) -> float:
        """Return the distance of a lung's middle from the midline."""
        return 0.045 + self.lung_width

    def extent(self, z: float) -> tuple[float, float]:
        """Return the half axes of a lung at the position `z`."""
        part = max(0.35, np.sin(np.pi * (0.15 + 0.75 * z)))
        return self.lung_width * part, self.lung_depth * part

    def density(self, z: float, lungs: np.ndarray) -> np.ndarray:
        """Return the picture at the position `z` without a lesion, (size, size), with grey levels 0..1."""
        body = self.ellipse(0, 0, self.width, self.depth)
        spine = self.ellipse(0, 0.2, 0.05, 0.05)
        density = 0.85 * body * (1 - lungs) + self.lung_grey * lungs + 0.15 * spine
        density = density - 0.75 * self.ellipse(0, -0.05, 0.02, 0.024) * (z < 0.5)  # the trachea
        return density + 0.6 * self.vessels(z) * lungs

    def vessels(self, z: float) -> np.ndarray:
        """Return the mask of the vessels at the position `z`, (size, size), with values 0..1."""
        found = np.zeros_like(self.u)
        wide, deep = self.extent(z)
        for side, (x, y, start), slope, length, radius in zip(
            self.sides, self.starts, self.slopes, self.lengths, self.radii, strict=True
        ):
            if start <= z <= start + length:
                x, y = x + slope[0] * (z - start), y + slope[1] * (z - start)
                found = np.maximum(found, self.ellipse(side * self.middle() + x * wide, y * deep, radius, radius))
        return found

    def ellipse(self, u: float, v: float, a: float, b: float) -> np.ndarray:
        """Return the mask of an ellipse with half axes `a` and `b` and a soft edge, (size, size), with values 0..1."""
        away = (1 - np.hypot((self.u - u) / a, (self.v - v) / b)) * min(a, b)
        return (away / self.soft + 0.5).clip(0, 1)


class _Lesion:
    """One round lesion in a lung, in a few slices."""

    def __init__(self, thorax: _Thorax, rng: np.random.Generator, count: int) -> None:
        self.thorax = thorax
        self.slices = int(rng.integers(LESION_SLICES[0], LESION_SLICES[1] + 1))
        self.first = int(rng.integers(count // 6, count - count // 6 - self.slices))
        self.radius = rng.uniform(0.05, 0.07)
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.55)
        wide, deep = thorax.extent((self.first + self.slices / 2) / count)
        self.u = rng.choice((-1, 1)) * thorax.middle() + far * np.cos(angle) * wide
        self.v = far * np.sin(angle) * deep

    def at(self, number: int) -> np.ndarray:
        """Return the mask of the lesion in the slice ``number``, (size, size), with values 0..1."""
        along = 2 * (number - self.first + 0.5) / self.slices - 1
        if abs(along) >= 1:
            return np.zeros_like(self.thorax.u)
        radius = self.radius * (0.55 + 0.45 * np.sqrt(1 - along * along))
        return self.thorax.ellipse(self.u, self.v, radius, radius)
