"""Attach a lung segmenter to the preprocessing: from the folder of a model, or from a folder that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cvrnet.data import Preprocessing, Record
from cvrnet.data.lung_finder import LungFinder
from cvrnet.data.lung_masks import LungSettings
from cvrnet.errors import UserError
from cvrnet.runs.layout import SEGMENTER


def with_finder(preprocessing: Preprocessing, folders: Sequence[Path]) -> Preprocessing:
    """Return the preprocessing with a lung finder, which uses the segmenter in the checkpoint folders.

    The folders are those of a model or of an ensemble. If the model takes whole pictures, the preprocessing is returned
    unchanged. If the model has no segmenter, only pictures with a mask in the data set can be read.

    Raises:
        UserError: A segmenter's file is damaged, or the models of an ensemble have different segmenters.
    """
    if preprocessing.lungs is None:
        return preprocessing
    from cvrnet.lungs.segmenter import Segmenter  # here, because segmentation_models_pytorch is an extra

    found = [Segmenter.load(folder) for folder in folders if (folder / SEGMENTER).is_file()]
    if len({segmenter.digest for segmenter in found}) > 1:
        raise UserError("the folds find the lungs with different segmenters; expected models of one run")
    return replace(preprocessing, finder=LungFinder(preprocessing.lungs, segmenter=found[0] if found else None))


def make_finder(
    records: Sequence[Record], mode: str, margin: float | None, segmenter: str | None, cache_folder: str | Path | None
) -> LungFinder:
    """Make the finder that masks or crops the images of a data set.

    ``mode``, ``margin`` and ``segmenter`` are the values of ``--lungs``, ``--lungs-margin`` and ``--segmenter``. If
    there is no usable mask for an image, the image is used whole. ``cache_folder`` is as in `LungFinder`.

    Raises:
        UserError: No image has a mask and there is no segmenter, or the segmenter cannot be used.
    """
    settings = LungSettings(mode) if margin is None else LungSettings(mode, margin)
    found = None
    if segmenter:
        from cvrnet.lungs.segmenter import Segmenter  # here, because segmentation_models_pytorch is an extra

        found = Segmenter.load(segmenter)
    finder = LungFinder(settings, {}, found, cache_folder, whole_without=True)
    finder.use_masks(records)
    if not finder.given and found is None:
        raise UserError(
            f"--lungs {mode} needs masks, and no image has a lung_mask; add --segmenter FOLDER, a folder that "
            "`cvrnet lungs` wrote"
        )
    return finder
