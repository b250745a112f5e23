"""Load the programs of scripts/, and read the pictures that they draw."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "figures"


def load(name: str) -> dict[str, Any]:
    """Run a program as a module; return its names and values."""
    return runpy.run_path(str(ROOT / "scripts" / f"{name}.py"))


def description(picture: Path) -> str:
    """Return the description in a picture's metadata, which names the data that it shows."""
    with Image.open(picture) as image:
        return image.text["Description"]
