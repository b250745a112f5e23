"""Measure how many images a model marks as unlike its training images.

python benchmarks/novelty.py MODEL DATA [FOLDER ...]

DATA are radiographs similar to the training images of MODEL, but not among them (a test or validation set). MODEL
predicts them unchanged (for false alarms), rotated, mirrored, inverted and half black. MODEL also predicts crops of
scikit-learn's two photographs, textures, phantoms (synthetic radiographs), and the images in each FOLDER, such as other
body parts. The script prints a row for each of these kinds of images.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_images

from cvrnet import Predictor
from cvrnet.data import read_records, write_phantoms

COUNT = 100  # images of each kind


def main() -> None:
    """Print a row for each kind of image: their number, the share that is marked, and the median `unlike_training`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("folders", nargs="*", type=Path)
    arguments = parser.parse_args()
    predictor = Predictor.from_pretrained(arguments.model)
    if not predictor.has_gate:
        raise SystemExit(f"{arguments.model} cannot detect images unlike its training images: it has no novelty head")
    rng = np.random.default_rng(0)
    paths = [r.path for r in read_records(arguments.data, labelled=False)]
    known = _read(predictor, [paths[i] for i in rng.permutation(len(paths))[:COUNT]])
    kinds = {
        "like the training images": known,
        "turned by 90": [np.rot90(x) for x in known],
        "turned by 180": [np.rot90(x, 2) for x in known],
        "turned by 270": [np.rot90(x, 3) for x in known],
        "mirrored": [x[:, ::-1] for x in known],
        "inverted": [255 - x for x in known],
        "lower half black": [np.concatenate([x[: len(x) // 2], 0 * x[len(x) // 2 :]]) for x in known],
        "photographs": [_crop(predictor, rng) for _ in range(COUNT)],
        "textures": [_texture(predictor, rng, i) for i in range(COUNT)],
    }
    with tempfile.TemporaryDirectory() as folder:
        phantoms = read_records(write_phantoms(Path(folder) / "phantoms", COUNT, seed=1))
        kinds["phantoms"] = _read(predictor, [r.path for r in phantoms])
    for folder in arguments.folders:
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".dcm"))
        kinds[str(folder)] = _read(predictor, found)
    print(f"{'images':32} {'number':>6} {'marked':>7} {'median':>7}")
    for name, images in kinds.items():
        answers = predictor.answer(
            [(Path(name), predictor.preprocessing.resize(np.ascontiguousarray(x))) for x in images]
        )
        unlike = [answer.unlike_training for answer in answers]
        marked = np.mean([answer.marked for answer in answers])
        print(f"{name:32} {len(images):6} {marked:7.2f} {np.median(unlike):7.3f}", flush=True)


def _read(predictor: Predictor, paths: Sequence[Path]) -> list[Any]:
    return [predictor.preprocessing.resize(predictor.preprocessing.read(path)) for path in paths]


def _crop(predictor: Predictor, rng: np.random.Generator) -> Any:
    image = load_sample_images().images[rng.integers(2)]
    side = int(rng.integers(150, min(image.shape[:2])))
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    return _channels(predictor, image[top : top + side, left : left + side].mean(-1))


def _texture(predictor: Predictor, rng: np.random.Generator, i: int) -> Any:
    y, x = np.mgrid[0:1:224j, 0:1:224j]
    noise = rng.random((224, 224))
    waves = np.sin(rng.uniform(10, 90) * (x * rng.random() + y))
    made = (noise, gaussian_filter(noise, rng.uniform(1, 12)), waves)[i % 3]
    return _channels(predictor, 255 * (made - made.min()) / np.ptp(made))


def _channels(predictor: Predictor, grey: Any) -> Any:
    pixels = grey.astype(np.uint8)
    return pixels if predictor.preprocessing.mode == "L" else np.repeat(pixels[..., None], 3, 2)


if __name__ == "__main__":
    main()
