"""Save and load a model's novelty head (`cvrnet.heads.novelty`), which measures how unusual an image is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cvrnet.errors import UserError
from cvrnet.files import atomic_write
from cvrnet.heads.novelty import NoveltyHead
from cvrnet.runs.layout import NOVELTY

HALF = ("mean", "directions", "side_weights")  # tensors that are stored in 16 bits
MOST_NUMBERS = 100_000_000  # largest number of values that are read from a file, which may be untrusted


def save_novelty(folder: Path, head: NoveltyHead) -> None:
    """Write novelty.safetensors into a model's folder, atomically."""
    tensors = {
        name: (value.half() if name in HALF else value).contiguous() for name, value in head.state_dict().items()
    }
    with atomic_write(folder / NOVELTY) as temporary:
        temporary.write_bytes(save(tensors))


def load_novelty(folders: Sequence[Path], models: Sequence[nn.Module]) -> list[NoveltyHead]:
    """Load the novelty head of each model; return an empty list if a model has no novelty file, as in older runs.

    Raises:
        UserError: A file is damaged, or belongs to another network.
    """
    paths = [folder / NOVELTY for folder in folders]
    if not all(path.is_file() for path in paths):
        return []
    widths: list[Any] = [getattr(model, "widths", ()) for model in models]
    return [_load(path, sum(each)) for path, each in zip(paths, widths, strict=True)]


def _load(path: Path, width: int) -> NoveltyHead:
    try:
        if path.stat().st_size > 4 * MOST_NUMBERS:
            raise ValueError("it is too large")
        tensors = load_file(path)
        if problem := _problem(tensors, width):
            raise ValueError(problem)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    return NoveltyHead(**tensors).eval()


def _problem(tensors: dict[str, Tensor], width: int) -> str:
    """Return why tensors do not make a `NoveltyHead` for vectors of this width; "" if they do."""
    count = tensors["variances"].numel() if "variances" in tensors else 0
    shapes = {"mean": (width,), "directions": (count, width), "variances": (count,), "noise": (), "quantiles": None}
    # For mirrored images; the files of earlier versions, which did not detect these, lack both tensors.
    of_sides = {"side_weights": (2 * width,), "side_bias": ()}
    if {*tensors} not in ({*shapes}, {*shapes, *of_sides}):
        return "it does not hold the tensors of a novelty head"
    variances, noise, quantiles = (tensors[name].float() for name in ("variances", "noise", "quantiles"))
    fits = all(tensor.shape == (shapes | of_sides)[name] for name, tensor in tensors.items() if name != "quantiles")
    if not (fits and quantiles.ndim == 1 and len(quantiles) > 1):
        return "its tensors do not fit the network"
    if not all(tensor.float().isfinite().all() for tensor in tensors.values()):
        return "it holds NaN or infinity"
    if not (noise > 0 and (variances > 0).all() and (quantiles.diff() >= 0).all()):
        return "its variances are not positive, or its quantiles are not in ascending order"
    return ""
