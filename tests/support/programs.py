"""The programs of scripts/, and the pictures that they draw."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "figures"


def load(name: str) -> dict[str, Any]:
    """What a program defines, by its names."""
    return runpy.run_path(str(ROOT / "scripts" / f"{name}.py"))


def description(picture: Path) -> str:
    """What a picture says of itself: what it was drawn of."""
    with Image.open(picture) as image:
        return image.text["Description"]
