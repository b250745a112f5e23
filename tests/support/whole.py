"""Check that every file in a folder is complete, and that no temporary file is left."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image


def broken(folder: Path, *, killed: bool = False) -> list[str]:
    """Return a line for each incomplete or temporary file in a folder.

    Args:
        folder: The folder; it may be missing.
        killed: The writer was killed and could not remove its temporary files, so hidden ones are allowed.
    """
    wrong = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            wrong += [] if killed else [f"{name}: left behind"]
        elif path.is_file():
            try:
                _read(path)
            except Exception as error:  # noqa: BLE001  # whatever a reader raises
                wrong.append(f"{name}: {type(error).__name__}: {error}")
    return wrong


def _read(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".csv":
        text = path.read_text(encoding="utf-8")
        assert not text or text.endswith("\n"), "no line end"
        rows = list(csv.reader(text.splitlines()))
        assert len({len(row) for row in rows}) <= 1, "rows of several lengths"
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".npy":
        np.load(path)
    elif path.suffix == ".html":
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), "cut off"
    elif path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
        assert text.endswith("\n"), "cut off"
        assert path.name != "checklist.md" or "| Usability |" in text, "cut off"
    elif path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        load_file(path)
    elif path.suffix == ".onnx":
        import onnx

        onnx.checker.check_model(onnx.load(path))
    elif path.suffix == ".pt":
        import torch

        torch.load(path, weights_only=True)
    else:
        raise AssertionError("a file that no command writes")
