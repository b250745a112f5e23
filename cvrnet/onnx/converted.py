"""Make and open copies of checkpoints as ONNX files, for prediction in OpenVINO or ONNX Runtime.

The name of a copy is a hash of its checkpoint and of the versions of cvrnet and PyTorch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cvrnet.data import Preprocessing
from cvrnet.files import atomic_write, image_cache_folder, write_json
from cvrnet.metrics.decisions import Decisions
from cvrnet.onnx.check_images import check_pixels
from cvrnet.onnx.export import load_network, training_data, write_checked
from cvrnet.onnx.session import OnnxEngine, load_onnx
from cvrnet.runs.hub_download import file_hash
from cvrnet.runs.layout import CONFIG, NOVELTY, WEIGHTS
from cvrnet.strict_json import read_config_file


class ConvertedCopy:
    """The ONNX copy of a checkpoint; the file of the copy need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        files = [folder / name for name in (CONFIG, WEIGHTS, NOVELTY)]
        content = [file_hash(file) if file.is_file() else "" for file in files]
        key = json.dumps([content, version("cvrnet"), version("torch")]).encode()
        self.file = image_cache_folder() / "converted" / f"{hashlib.sha256(key).hexdigest()[:32]}.onnx"

    def open(self, dtype: str, engine: str, images: Callable[[], NDArray[np.uint8]]) -> OnnxEngine:
        """Open the file. If it does not exist, make it first, and compare it with PyTorch on ``images``.

        Raises:
            UserError: The network cannot be exported (see `cvrnet.onnx.export_onnx`), or the engine cannot run it.
        """
        if not self.file.is_file():
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            network = load_network([self._folder])
            network.decisions = Decisions()  # `Predictor` applies them, to the mean of all folds
            with atomic_write(self.file) as target:
                write_checked(network, {}, target, images())
        return load_onnx(self.file, "cpu", dtype, engine)

    def images(self, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """Return up to 16 images (N, C, H, W) on which other engines are compared with PyTorch.

        The images come from the training data. If the training data cannot be read, the images are phantoms
        (synthetic images).
        """
        return check_pixels(preprocessing, None, training_data(self._folder))[0]

    def known_difference(self, opened: OnnxEngine) -> float | None:
        """Return the difference that `keep_difference` stored for this engine, version and number format, or None."""
        found = self._notes().get(_name(opened))
        return found if isinstance(found, float) else None

    def keep_difference(self, opened: OnnxEngine, difference: float) -> None:
        """Store the largest difference between the probabilities of an engine and PyTorch's."""
        write_json(self.file.with_suffix(".json"), {**self._notes(), _name(opened): difference})

    def _notes(self) -> dict[str, object]:
        try:
            found = read_config_file(self.file.with_suffix(".json"))
        except (OSError, ValueError):
            return {}  # nothing was measured yet
        return found if isinstance(found, dict) else {}


def _name(opened: OnnxEngine) -> str:
    return f"{opened.engine} {version(opened.engine)} {opened.precision}"
