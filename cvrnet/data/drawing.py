"""Draw a schematic frontal chest radiograph, with exact masks of lungs and lesions, for `cvrnet.data.phantoms`.

Coordinates are those of the patient before the pose (a small turn, zoom and shift) is applied. Their unit is the height
of the image. `u` increases from the midline to the right of the image (the patient's left), and `v` increases
downwards. Without a pose, v = 0 is the image's upper border. Densities add up along the ray, and a film curve turns
them into grey levels. Edges are about one pixel wide in an image of 256 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from PIL import Image, ImageDraw

_Patch = tuple[float, float, tuple[float, float], float, float]
"""One lesion, an ellipse with a ragged, soft edge: `u` and `v` of its centre, radii, density and softness."""

_LOOKS = ((1.0, 1.0, 3.0), (0.92, 0.9, 4.5), (1.08, 1.06, 3.8))
"""The three looks of `draw_film`: width divided by height, contrast, and noise."""


def draw_film(
    label: str, *, seed: int, patient: int, image: int, look: int = 0, size: int = 256, severity: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one film; return its image, uint8 (H, W), and its masks of the lungs and of the lesions, bool (H, W).

    ``label`` (`NOR`, `NCP` or `CVP`, see `cvrnet.data.phantoms`) determines only the lesions: two films whose
    arguments differ only in the label are equal outside the lungs, pixel by pixel. ``patient``, a number, determines
    the anatomy and the places of the lesions. ``image``, a number, determines pose, exposure, noise and the air in the
    lungs. ``look`` selects one of three looks (``look % 3``), which differ in contrast, noise and the image's width;
    phantoms use the number of the source (the hospital) as ``look``. ``size`` is the height in pixels. ``severity``
    multiplies the lesions' density.
    """
    # One stream of random numbers for each purpose: with a single one, the lesions would shift all later draws, and the
    # label would change the rest of the image.
    anatomy_rng, lesion_rng = (np.random.default_rng([seed, stream, patient]) for stream in (1, 2))
    film_rng, noise_rng, opacity_rng = (np.random.default_rng([seed, stream, image]) for stream in (3, 4, 5))
    aspect, contrast, noise = _LOOKS[look % len(_LOOKS)]
    body = _Anatomy(anatomy_rng)
    canvas = _Canvas(size, aspect, film_rng)
    heart = _heart(canvas, body)
    lungs = _lungs(canvas, body, heart)
    opacity, lesion = _opacity(canvas, _lesions(label, body, lesion_rng), lungs, opacity_rng)
    density = _density(canvas, body, heart, lungs, film_rng) + severity * opacity + 0.03 * canvas.field(film_rng, 1)
    contrast, middle = contrast * film_rng.normal(4.2, 0.4), film_rng.normal(0.52, 0.05)
    grey = 255 / (1 + np.exp(-contrast * (density - middle)))  # a film's characteristic curve
    grey += noise * film_rng.uniform(0.7, 1.4) * noise_rng.standard_normal(grey.shape, dtype=np.float32)
    return np.clip(grey, 0, 255).astype(np.uint8), lungs > 0.5, lesion


class _Anatomy:
    """The anatomy that all images of a patient share; in a pair, the first value is for the image's left side."""

    def __init__(self, rng: np.random.Generator):
        apex, base, width = rng.normal(0.1, 0.012), rng.normal(0.72, 0.028), rng.normal(0.36, 0.018)
        lean = rng.normal(0, 0.008, 3).tolist()
        self.apex = (apex + lean[0], apex - lean[0])
        self.base = (base - 0.014 + lean[1], base + 0.014 - lean[1])  # top of the diaphragm's dome; the right is higher
        self.width = (width + lean[2], width - lean[2])  # from the midline to the lung's outer edge
        self.sulcus = rng.uniform(0.06, 0.1)  # depth of the costophrenic angle below the dome
        self.mediastinum = rng.uniform(0.045, 0.06)  # half the width of the mediastinum
        self.heart = rng.uniform(0.1, 0.155)  # bulge of the heart to the patient's left
        self.knob = rng.uniform(0.01, 0.032)  # how far the aortic arch bulges
        self.ribs = rng.normal(0.074, 0.003)  # distance between two ribs
        self.bone = rng.uniform(0.08, 0.13)  # density of the bones
        self.fat = rng.uniform(0, 0.1)
        self.stomach = max(0.0, rng.uniform(-0.1, 0.2))  # gas below the left dome

    def edges(self, side: int, v: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Return the distances from the midline to a lung's inner and outer edge at the heights `v`."""
        apex, base, width = self.apex[side], self.base[side] + self.sulcus, self.width[side]
        t = np.clip((v - apex) / (base - apex), 0, 1)
        tip = 0.34 * width
        inner = tip - (tip - 0.03) * np.sqrt(np.minimum(t / 0.2, 1))
        outer = tip + (width - tip) * np.sqrt(1 - (1 - t) * (1 - t))
        return inner, outer


class _Canvas:
    """The pixels of one film, with their places in the patient's coordinates, and functions that draw on them."""

    def __init__(self, size: int, aspect: float, rng: np.random.Generator):
        self.height, self.width = size, round(size * aspect)
        angle, zoom = np.deg2rad(rng.normal(0, 1.8)), rng.normal(1.03, 0.035)
        self.shift = np.array([0, 0.01]) + rng.normal(0, 0.014, 2)
        self.turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        y, x = np.mgrid[: self.height, : self.width].astype(np.float32)
        right, down = self.shift.tolist()
        x, y = (x + 0.5 - self.width / 2) / size - right, (y + 0.5) / size - 0.5 - down
        (a, b), (c, d) = np.linalg.inv(self.turn).tolist()
        self.u, self.v = a * x + b * y, c * x + d * y + 0.5

    def lines(self, lines: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
        """Return how much of each pixel is covered by polylines, 0..1; each polyline has points (u, v) and a width."""
        # Drawn at twice the size, then averaged: ImageDraw does not smooth edges.
        big = Image.new("L", (2 * self.width, 2 * self.height))
        draw = ImageDraw.Draw(big)
        points = np.concatenate([points for points, _ in lines])  # small arrays one by one would take longer
        xy = (points - (0, 0.5)) @ self.turn.T + self.shift + (self.width / self.height / 2, 0.5)
        pixels = iter((2 * self.height * xy).ravel().tolist())
        for points, width in lines:
            line = list(islice(pixels, points.size))
            draw.line(line, fill=255, width=max(1, round(2 * self.height * width)))
        return np.asarray(big.reduce(2), dtype=np.float32) / 255

    def field(self, rng: np.random.Generator, cells: int) -> np.ndarray:
        """Return a smooth random field, about standard normal, with `cells` bumps across the image."""
        grid = Image.fromarray(rng.standard_normal((cells + 3, cells + 3)).astype(np.float32))
        return np.asarray(grid.resize((self.width, self.height), Image.Resampling.BICUBIC))


def _step(x: np.ndarray, width: float) -> np.ndarray:
    """Return a soft edge (a smoothstep): 0 where x is well below zero, 1 where it is well above."""
    t = np.clip(x * (0.4 / width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _ellipse(canvas: _Canvas, u: float, v: float, a: float, b: float) -> np.ndarray:
    """Return the approximate distance to an ellipse's edge, in image heights: positive inside, negative outside."""
    du, dv = (canvas.u - u) / a, (canvas.v - v) / b
    return (1 - np.sqrt(du * du + dv * dv)) * min(a, b)


def _heart(canvas: _Canvas, body: _Anatomy) -> np.ndarray:
    """Return the mask of the heart and great vessels, 0..1; it bulges most to the patient's left."""

    def bump(v: np.ndarray, centre: float, spread: float) -> np.ndarray:
        return np.exp(-(((v - centre) / spread) ** 2))

    v, base = np.linspace(-0.2, 1.3, 300), (body.base[0] + body.base[1]) / 2
    right = body.mediastinum + 0.3 * body.heart * bump(v, base - 0.11, 0.1)
    left = body.mediastinum + body.knob * bump(v, 0.28, 0.035) + 0.018 * bump(v, 0.4, 0.05)
    left += body.heart * bump(v, base - 0.05, 0.13)
    right, left = (np.interp(canvas.v, v, x).astype(np.float32) for x in (right, left))
    return _step(canvas.u + right, 0.008) * _step(left - canvas.u, 0.009)


def _lungs(canvas: _Canvas, body: _Anatomy, heart: np.ndarray) -> np.ndarray:
    """Return the mask of both lungs, 0..1, without the heart and the part below the diaphragm."""
    lungs = np.zeros_like(canvas.u)
    for side, sign in enumerate((-1, 1)):
        x = sign * canvas.u
        inner, outer = body.edges(side, canvas.v)
        middle = 0.52 * body.width[side]
        dome = body.base[side] + body.sulcus * ((x - middle) / (body.width[side] - middle)) ** 2
        sides = _step(np.minimum(x - inner, outer - x), 0.005)
        lungs += sides * _step(np.minimum(dome - canvas.v, canvas.v - body.apex[side]), 0.005)
    return lungs * (1 - heart)


def _bones(canvas: _Canvas, body: _Anatomy, lungs: np.ndarray) -> np.ndarray:
    """Return a picture of the bones: ribs (back and front, faint outside the lungs), clavicles, scapulae and humeri."""
    s = np.linspace(0, 1, 16)
    back, front, shoulders = [], [], []
    for side, sign in enumerate((-1, 1)):

        def arc(u: np.ndarray, v: np.ndarray, sign: int = sign) -> np.ndarray:
            return np.stack([sign * u, v], -1)

        k = np.arange(10)[:, None]  # one row for each rib
        top, drop = body.apex[side] - 0.005 + body.ribs * k, 0.02 + 0.011 * k
        reach = body.edges(side, top + drop + 0.02)[1] + 0.01
        u = 0.03 + (reach - 0.03) * np.sin(0.5 * np.pi * s)
        back += [(rib, 0.022) for rib in arc(u, top - 0.05 * np.sin(np.pi * s) * (1 - s) + drop * s**2)]
        ends = arc(reach * (1 - 0.62 * s**1.3), top + drop + 0.075 * np.sin(0.55 * np.pi * s))
        front += [(rib, 0.022) for rib in ends[1:7]]
        v = body.apex[side] + 0.06
        shoulders.append((arc(0.035 + 0.34 * s, v - 0.07 * s + 0.014 * np.sin(2 * np.pi * s)), 0.026))
        shoulders.append((arc(0.29 + 0.075 * s, v + 0.02 + 0.3 * s**1.4), 0.012))
        shoulders.append((arc(0.385 + 0.2 * s, v - 0.015 + 0.25 * s**2), 0.055))
    return (canvas.lines(back) + 0.5 * canvas.lines(front)) * (0.2 + 0.8 * lungs) + 0.8 * canvas.lines(shoulders)


def _vessels(rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    """Return the lungs' vessels as polylines, each with points and a width; those farther from the hila are thinner."""
    lines = []
    for sign in (-1, 1):
        angles = np.linspace(-1.25, 1.35, 11) + rng.normal(0, 0.1, 11)
        steps = 0.03 * np.exp(1j * (angles[:, None] + np.cumsum(rng.normal(0, 0.16, (11, 8)), 1)))
        paths = complex(0.045, 0.44) + np.cumsum(steps, 1)
        for points in np.stack([sign * paths.real, paths.imag], 2):
            lines += [(points[:3], 0.013), (points[2:5], 0.009), (points[4:], 0.006)]
    return lines


def _lesions(label: str, body: _Anatomy, rng: np.random.Generator) -> Iterator[_Patch]:
    """Yield the lesions of one patient: none (NOR), one dense patch (NCP), or faint patches on both sides (CVP)."""
    if label == "NCP":
        side = int(rng.integers(2))
        v = body.apex[side] + rng.uniform(0.25, 0.8) * (body.base[side] - body.apex[side])
        inner, outer = body.edges(side, v)
        if side == 1 and v > 0.45:
            inner = inner + 0.09  # beside the heart
        u = float(inner + rng.uniform(0.35, 0.65) * (outer - inner))
        radii = (rng.uniform(0.065, 0.09), rng.uniform(0.07, 0.11))
        yield (-1, 1)[side] * u, v, radii, rng.uniform(0.3, 0.4), 0.016
    if label == "CVP":
        for side, sign in enumerate((-1, 1)):
            for low in rng.permutation((0.4, 0.58, 0.74, 0.88))[: int(rng.integers(2, 4))]:
                v = body.apex[side] + (low + rng.uniform(-0.06, 0.06)) * (body.base[side] - body.apex[side])
                u = float(body.edges(side, v)[1]) - rng.uniform(0.02, 0.055)
                radii = (rng.uniform(0.045, 0.065), rng.uniform(0.05, 0.075))
                yield sign * u, v, radii, rng.uniform(0.2, 0.27), 0.015


def _opacity(
    canvas: _Canvas, patches: Iterable[_Patch], lungs: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the density that lesions add inside the lungs (the largest where they overlap), and the lesions' mask."""
    added, cover = np.zeros_like(canvas.u), np.zeros_like(canvas.u)
    edge, grain = canvas.field(rng, 14), canvas.field(rng, 40)
    for u, v, radii, density, soft in patches:
        inside = _step(_ellipse(canvas, u, v, *radii) + 0.012 * edge, soft)
        added = np.maximum(added, density * rng.uniform(0.9, 1.1) * inside)
        cover = np.maximum(cover, inside)
    return added * (1 + 0.15 * np.clip(grain, -2, 2)) * lungs, (cover > 0.5) & (lungs > 0.5)


def _density(
    canvas: _Canvas, body: _Anatomy, heart: np.ndarray, lungs: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return density along each pixel's ray, without lesions: 0 in air, about 0.25 in lung, 0.6 in the chest wall."""
    u, v = np.abs(canvas.u), canvas.v
    heights, halves = (-0.2, 0.0, 0.04, 0.09, 0.16, 0.24, 0.6, 1.2), (0.12, 0.12, 0.15, 0.34, 0.47, 0.5, 0.455, 0.48)
    outline = np.interp(v, heights, halves).astype(np.float32)  # neck, shoulders, chest
    tissue = np.sqrt(np.clip(1 - (u / outline) ** 4, 0, 1)) * (0.6 + body.fat)
    spine = _step(0.034 - u, 0.008) * (1 + 0.3 * np.cos(v * (2 * np.pi / 0.052)))
    trachea = _step(0.016 - u, 0.006) * _step(0.36 - v, 0.02)
    belly = _step(v - (body.base[0] + body.base[1]) / 2, 0.06) * (1 - lungs)
    heart = heart * (1 - 0.8 * belly)
    hila = np.maximum(_ellipse(canvas, -0.075, 0.45, 0.035, 0.06), _ellipse(canvas, 0.08, 0.43, 0.03, 0.05))
    gas = _step(_ellipse(canvas, 0.15, body.base[1] + 0.055, 0.06, 0.03), 0.01)
    breasts = np.maximum(_ellipse(canvas, -0.2, 0.6, 0.15, 0.14), _ellipse(canvas, 0.2, 0.6, 0.15, 0.14))
    density = tissue - (0.4 + 0.6 * body.fat) * lungs + 0.8 * body.fat * _step(breasts, 0.03)
    density += 0.12 * spine - 0.13 * trachea + 0.2 * heart + 0.2 * belly - body.stomach * gas
    density += body.bone * _bones(canvas, body, lungs) * (tissue > 0)
    air = rng.normal(0, 0.065) + rng.uniform(0, 0.09) * canvas.field(rng, 3)  # how much air the lungs hold
    return density + lungs * (0.1 * canvas.lines(_vessels(rng)) + 0.12 * _step(hila, 0.03) + air)
