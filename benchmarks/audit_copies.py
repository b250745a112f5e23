"""Measure how many altered copies of images the audit finds as near-duplicates, and how many of its matches are wrong.

    python benchmarks/audit_copies.py DATA --images 400 --originals 25 --known near-duplicates.csv

The script takes `--images` images of DATA. From `--originals` of these images, it makes one altered copy of each kind.
It searches images and copies for near-duplicates. For each kind it prints how many copies were found, and how many
matches were wrong. Then it prints the pairs found within DATA and, with `--known` (a CSV file with the columns path_a
and path_b), how many known pairs were found.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cvrnet.audit.duplicates import exact_copies, near_copies
from cvrnet.audit.measurements import Measurements, measure
from cvrnet.data import Record, read_image, read_records

Picture = np.ndarray
Change = Callable[[Picture, np.random.Generator], Picture]


def crop(share: float) -> Change:
    """Return a change that crops up to `share` of the height and the width, at random sides."""

    def change(a: Picture, rng: np.random.Generator) -> Picture:
        sides = [round(n * (1 - share * rng.uniform(0.5, 1))) for n in a.shape]
        y, x = (int(rng.integers(n - m + 1)) for n, m in zip(a.shape, sides, strict=True))
        return a[y : y + sides[0], x : x + sides[1]]

    return change


def turn(degrees: float) -> Change:
    """Return a change that rotates by 60 to 100 % of `degrees`, in either direction."""

    def change(a: Picture, rng: np.random.Generator) -> Picture:
        height, width = a.shape
        angle = degrees * rng.uniform(0.6, 1) * rng.choice([-1, 1])
        return cv2.warpAffine(a, cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1), (width, height))

    return change


def gamma(a: Picture, rng: np.random.Generator) -> Picture:
    """Brighten or darken the midtones."""
    return np.rint(255 * (a / 255) ** rng.choice([0.5, 0.6, 1.6, 2.0])).astype(np.uint8)


def contrast(a: Picture, rng: np.random.Generator) -> Picture:
    """Change the contrast by a factor of 0.5 or 1.7, shift the brightness, and clip."""
    return np.clip((a - 128.0) * rng.choice([0.5, 1.7]) + 128 + rng.uniform(-20, 20), 0, 255).astype(np.uint8)


def equalise(a: Picture, rng: np.random.Generator) -> Picture:
    """Equalise the local contrast (CLAHE)."""
    return cv2.createCLAHE(3.0, (8, 8)).apply(a)


def jpeg(a: Picture, rng: np.random.Generator) -> Picture:
    """Compress as JPEG of quality 8 to 24."""
    return cv2.imdecode(cv2.imencode(".jpg", a, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(8, 25))])[1], 0)


def shrink(a: Picture, rng: np.random.Generator) -> Picture:
    """Shrink to 40 % of the size."""
    return cv2.resize(a, (a.shape[1] * 2 // 5, a.shape[0] * 2 // 5), interpolation=cv2.INTER_AREA)


def frame(a: Picture, rng: np.random.Generator) -> Picture:
    """Add a black or white frame, and text."""
    sides = [int(n) for n in rng.integers(5, 50, 4)]
    a = cv2.copyMakeBorder(a, *sides, cv2.BORDER_CONSTANT, value=int(rng.choice([0, 255])))
    return cv2.putText(a, "AP 12:30", (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2)


CHANGES: dict[str, Change] = {
    "crop 10 %": crop(0.1),
    "crop 20 %": crop(0.2),
    "crop 35 %": crop(0.35),
    "rotation 5°": turn(5),
    "rotation 12°": turn(12),
    "gamma": gamma,
    "contrast": contrast,
    "CLAHE": equalise,
    "JPEG quality 8-24": jpeg,
    "40 % of the size": shrink,
    "frame and text": frame,
    "negative": lambda a, rng: 255 - a,
    "mirrored": lambda a, rng: a[:, ::-1],
    "turned by 90°": lambda a, rng: np.rot90(a),
    "rotation, crop, gamma, JPEG": lambda a, rng: jpeg(gamma(crop(0.15)(turn(4)(a, rng), rng), rng), rng),
}


def take(measured: Measurements, rows: list[int]) -> Measurements:
    """Return the measurements of the images with the indices ``rows``."""
    records, facts = [measured.records[i] for i in rows], [measured.facts[i] for i in rows]
    return Measurements(records, facts, measured.large[rows])


def main() -> None:
    """Make the copies, search for them, and print how many were found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--originals", type=int, default=25)
    parser.add_argument("--known", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    records = read_records(options.data, labelled=False)
    records = [records[i] for i in np.sort(rng.permutation(len(records))[: options.images])]
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, tuple[str, str]] = {}
        for number, original in enumerate(records[i] for i in rng.permutation(len(records))[: options.originals]):
            picture = read_image(original.path)
            for kind, change in CHANGES.items():
                name = f"made-{number}-{len(made)}.png"
                copy = change(picture, np.random.default_rng([number, len(made)]))
                Image.fromarray(np.ascontiguousarray(copy)).save(Path(folder, name))
                made[name] = kind, original.name
        all_records = [*records, *(Record(Path(folder, name), name) for name in made)]
        measured, _ = measure(all_records, Path(folder))
        # One kind at a time: otherwise the nearest neighbours of a copy would be the other copies of its original.
        haystack = len(records)
        found: set[frozenset[str]] = set()
        for kind in CHANGES:
            rows = [
                *range(haystack),
                *(i for i in range(haystack, len(all_records)) if made[all_records[i].name][0] == kind),
            ]
            part = take(measured, rows)
            copies = [*near_copies(part), *exact_copies(part)]
            pairs = {frozenset((part.records[c.first].name, part.records[c.second].name)) for c in copies}
            mine = {
                frozenset((part.records[i].name, made[part.records[i].name][1])) for i in range(haystack, len(rows))
            }
            found |= pairs
            wrong = [pair for pair in pairs - mine if any(name in made for name in pair)]
            print(f"{kind:<28} {len(pairs & mine):>3} of {len(mine)}, wrong matches {len(wrong)}", flush=True)
    names = {record.name for record in records}
    print("pairs within the data:", *sorted(" ".join(sorted(pair)) for pair in found if pair <= names), sep="\n  ")
    if options.known:
        with options.known.open() as file:
            known = [frozenset((row["path_a"], row["path_b"])) for row in csv.DictReader(file)]
        here = [pair for pair in known if pair <= names]
        print(f"known pairs: {sum(pair in found for pair in here)} of {len(here)}")


if __name__ == "__main__":
    main()
