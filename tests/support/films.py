"""Radiographs (films) with findings that can be learnt, and a config that learns these in seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from cvrnet.training import recipe

FINDINGS = ["Bright", "Left", "Rare"]


def picture(bright: bool, left: bool, rng: np.random.Generator) -> np.ndarray:
    """Return a film whose findings can be learnt: its brightness, and a bar on its left side."""
    pixels = rng.normal(150 if bright else 70, 20, (48, 48))
    if left:
        pixels[:, :16] += 70
    return pixels.clip(0, 255).astype(np.uint8)


def write_films(folder: Path, count: int, columns: bool, seed: int = 0) -> Path:
    """Write a manifest of patients with one to three films each; with ``columns``, 10 % of ``Left`` is not known."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = []
    for i in range(count):
        has = {"Bright": bool(rng.integers(2)), "Left": bool(rng.random() < 0.3), "Rare": i % 12 == 0}
        Image.fromarray(picture(has["Bright"], has["Left"], rng)).save(folder / f"{i}.png")
        row = {"path": f"{i}.png", "source": "ab"[i % 2], "patient_id": f"p{i // (1 + i % 3)}", "sex": "FM"[i // 2 % 2]}
        if columns:
            row |= {name: str(float(value)) for name, value in has.items()}
            row["Left"] = "" if rng.random() < 0.1 else "-1" if rng.random() < 0.05 else row["Left"]
        else:
            row["label"] = "|".join(name for name, value in has.items() if value) or "No Finding"
        rows.append(row)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


CONFIG = recipe(
    "paper",
    model="cvrnet_tiny",
    pretrained=False,
    img_size=48,
    epochs=3,
    lr=2e-3,
    batch_size=16,
    findings=("auto",),
    device="cpu",
    hflip_p=0.0,
    vflip_p=0.0,
    rotation_p=0.0,
    shift_p=0.0,
)
