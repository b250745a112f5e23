"""Export a trained model to an ONNX file; the file appears only after its outputs have been checked."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from cvrnet.data.data_set import DataPath, DataSet
from cvrnet.encoders.fuse_batch_norm import fuse_batch_norm
from cvrnet.errors import UserError
from cvrnet.files import atomic_write
from cvrnet.onnx.check_images import check_pixels, split_calibration
from cvrnet.onnx.graph import PixelNetwork, describe, trace, write_metadata
from cvrnet.onnx.session import load_onnx
from cvrnet.runs.checkpoint import find_checkpoints, load_checkpoint, refuse_bags, stored_unit
from cvrnet.runs.decisions import load_decisions
from cvrnet.runs.hub_download import file_hash, is_reference
from cvrnet.runs.layout import RUN, WEIGHTS, fold_number
from cvrnet.runs.novelty import load_novelty
from cvrnet.runs.read import read_run
from cvrnet.task import probabilities

TOLERANCE = 1e-4
DISTANCE_TOLERANCE = 0.01  # largest relative difference from PyTorch in an image's distance from the training images
CALIBRATION_IMAGES = 128
EVALUATION_IMAGES = 2000


def export_onnx(
    model: str | Path,
    output: str | Path,
    *,
    folds: Sequence[int] = (),
    img_size: int | None = None,
    check_images: DataPath | None = None,
    int8: bool = False,
    calibration: DataPath | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    min_agreement: float = 0.98,
    max_accuracy_drop: float = 0.01,
    any_body_part: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Export a model to an ONNX file; all folds of a run become one network.

    The file appears only after ONNX Runtime has reproduced the probabilities of the PyTorch network, and those of each
    head, within 1e-4.

    Args:
        model: Run folder, fold folder, ``local-dir:FOLDER`` or ``hf-hub:user/repo[@revision]``.
        output: The file; its name ends in .onnx.
        folds: Numbers of the run's folds to export; all by default.
        img_size: Height and width in pixels; by default the size of the training.
        check_images: Data set; the probabilities are compared on some of its images. By default, this is
            ``calibration`` or, without it, the data set of the run. If there is no ``calibration``, and the data set of
            the run cannot be read or the model comes from the Hub, the images are phantoms (synthetic images).
        int8: Quantise the network: weights and activations of most convolutions and matrix products become 8-bit
            integers.
        calibration: Data set for int8. The images of some patients determine the ranges of the activations. On the
            images of the other patients, the quantised file is compared with the float32 file.
        calibration_images: Number of images that determine the ranges.
        min_agreement: Smallest accepted share of the other patients' images whose most probable class does not change
            (for findings: whose decision does not change, as the mean over the findings); 0 accepts any share.
        max_accuracy_drop: Largest accepted loss of accuracy (for findings: of the mean AUC) on the other patients'
            images, if they have labels; 1 accepts any loss.
        any_body_part: Also read DICOM files of parts of the body other than the chest.
        overwrite: Replace an existing file.
        progress: Called after each batch on which the quantised file is compared, with the number of images done and
            the total.

    Returns:
        A dictionary with the keys ``folds``, the number of folds; ``checked_on``, a phrase that says on which images
        the outputs were compared; and ``max_difference``, the largest difference between a probability of ONNX Runtime
        and of PyTorch. With ``int8`` there is also ``quantization``, a dictionary with ``tool``,
        ``calibration_images`` and the values of `cvrnet.onnx.quantize.compare`.

    Raises:
        UserError: An argument is wrong, the network cannot be exported, or the outputs differ too much. In these cases
            nothing is written.
    """
    output = Path(output)
    _check_arguments(output, int8, calibration, overwrite)
    folders = find_checkpoints(model, folds)
    refuse_bags(stored_unit(folders[0]), "an export")
    network = load_network(folders, img_size)
    if lungs := network.preprocessing.lungs:
        raise UserError(
            f"the model in {folders[0]} sees only the lungs (--lungs {lungs.mode}); an exported file would lack the "
            "network that finds the lungs"
        )
    network.preprocessing = dataclasses.replace(network.preprocessing, any_body_part=any_body_part)
    if int8:
        network.novelty = nn.ModuleList()  # quantisation changes distances: their quantiles would be wrong
    origin = _provenance(folders, _find_run(folders[0]))
    pixels, checked_on = check_pixels(
        network.preprocessing, check_images or calibration, None if is_reference(model) else training_data(folders[0])
    )
    report: dict[str, Any] = {"folds": len(folders), "checked_on": checked_on}
    with atomic_write(output) as target, tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
        exact = Path(folder) / "float32.onnx"
        report["max_difference"] = write_checked(network, origin, exact, pixels)
        if calibration is None:
            exact.replace(target)
            return report
        from cvrnet.onnx.quantize import check_agreement, compare, quantize

        chosen, others = split_calibration(
            calibration, calibration_images, EVALUATION_IMAGES, network.classes, network.task
        )
        count = quantize(exact, target, chosen, network)
        quantized = onnx.load(target)
        describe(quantized, network, origin)
        onnx.save(quantized, target)
        agreement = compare(exact, target, others, network, progress)
        check_agreement(agreement, min_agreement, max_accuracy_drop)
        made = {"tool": f"onnxruntime {version('onnxruntime')}", "calibration_images": count}
        report["quantization"] = made | agreement
        write_metadata(quantized, {"quantization": report["quantization"]})
        onnx.save(quantized, target)
    return report


def _check_arguments(output: Path, int8: bool, calibration: DataPath | None, overwrite: bool) -> None:
    if output.suffix != ".onnx" or output.is_dir():
        raise UserError(f"{output}: expected a file name that ends in .onnx")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; --overwrite replaces it")
    if int8 and calibration is None:
        raise UserError("--int8 needs images to calibrate on: --calibration DATA")
    if calibration is not None and not int8:
        raise UserError(
            "--calibration is only for --int8; to choose the images on which the export is checked, use --check-images"
        )


def load_network(folders: Sequence[Path], img_size: int | None = None) -> PixelNetwork:
    """Load the folds of a run as one network, in evaluation mode on the CPU, with batch norm folded in."""
    models: list[Any] = [load_checkpoint(folder) for folder in folders]
    # A network that works at one image size only (such as a vision transformer) is built again for the new size.
    if img_size and any(model.pretrained_cfg.get("fixed_input_size") for model in models):
        models = [load_checkpoint(folder, img_size=img_size) for folder in folders]
    network = PixelNetwork([fuse_batch_norm(model) for model in models], img_size).eval()
    if img_size in (None, models[0].pretrained_cfg["input_size"][-1]):  # decisions hold only at the training's size
        network.decisions = load_decisions(folders)
        network.novelty = nn.ModuleList(load_novelty(folders, models))
    if img_size:
        _check_size(network, img_size)
    return network


def _check_size(network: PixelNetwork, img_size: int) -> None:
    """Raise UserError for an image size that the network cannot take; many vision transformers take only one size."""
    size = network.preprocessing.input_size
    try:
        with torch.no_grad():
            network(torch.zeros(1, *size, dtype=torch.uint8))
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the network cannot take images of {img_size} pixels ({reason}); leave out --img-size to export the "
            "network for the image size of its training"
        ) from error


def training_data(folder: Path) -> DataSet | None:
    """Return the data set that is named in run.json of the checkpoint's run folder; None without run.json or a name."""
    return DataSet.of_run(_find_run(folder))


def _find_run(folder: Path) -> dict[str, Any]:
    """Read run.json in a checkpoint's folder or else in the folder above (the run of a fold); {} if both lack it."""
    return next((read_run(place) for place in (folder, folder.parent) if (place / RUN).is_file()), {})


def _provenance(folders: Sequence[Path], run: dict[str, Any]) -> dict[str, Any]:
    """Return the kind of run, SHA-256 of each fold's weights and of the data set, and versions; no local paths."""
    # The user's folder names are private: only names of the form fold-k are written.
    names = [folder.name if fold_number(folder.name) else None for folder in folders]
    hashes = [file_hash(folder / WEIGHTS) for folder in folders]
    return {
        "kind": run.get("kind", "model"),
        "weights": [{"fold": name, "sha256": sha256} for name, sha256 in zip(names, hashes, strict=True)],
        "data_sha256": run.get("data_sha256"),
        "trained_with": run.get("versions"),
        "exported_with": {name: version(name) for name in ("cvrnet", "torch", "timm", "onnx", "onnxscript")},
    }


def write_checked(network: PixelNetwork, provenance: dict[str, Any], file: Path, pixels: NDArray[np.uint8]) -> float:
    """Write a network to a file, and compare the outputs of network and file on images, (N, C, H, W).

    Returns:
        The largest difference between a probability of ONNX Runtime and of PyTorch.

    Raises:
        UserError: The network cannot be exported; or a probability is not finite, or differs by more than 1e-4; or the
            distance of an image from the training images differs by more than 1 %.
    """
    proto = trace(network)
    describe(proto, network, provenance)
    onnx.save(proto, file)
    return _check(network, file, pixels)


def _check(network: PixelNetwork, file: Path, pixels: NDArray[np.uint8]) -> float:
    """Return the largest difference between probabilities of PyTorch and ONNX Runtime; UserError if it is above 1e-4.

    The heads are compared one by one, because their errors can cancel in the mean.
    """
    exported = load_onnx(file, "cpu", "fp32", "onnxruntime")
    with torch.inference_mode():
        expected = [answer.numpy() for answer in network(torch.from_numpy(pixels))]
    heads, distances = exported(pixels)
    found = [exported.logits(pixels), *([heads[0].transpose(1, 0, 2)] if network.averages_probabilities else [])]
    worst = max(
        float(np.abs(probabilities(a, network.task) - probabilities(b, network.task)).max())
        for a, b in zip(expected[: len(found)], found, strict=True)
    )
    if not math.isfinite(worst):
        raise UserError(
            "on the images of the check, the trained network or the exported network gave a probability that is not "
            "finite; nothing was written; `cvrnet predict` shows whether the trained network is the cause"
        )
    if worst > TOLERANCE:
        raise UserError(
            f"the exported network's probabilities differ from PyTorch's by {worst:.1e}; expected at most "
            f"{TOLERANCE:.0e}; nothing was written; try another version of torch, or predict with PyTorch"
        )
    if network.novelty:
        away = float(np.abs(distances / expected[-1] - 1).max())
        if not away <= DISTANCE_TOLERANCE:
            raise UserError(
                f"the distances of images from the training images differ between ONNX and PyTorch by {away:.0%}; "
                f"expected at most {DISTANCE_TOLERANCE:.0%}; nothing was written; try another version of torch, or "
                "predict with PyTorch"
            )
    return worst
