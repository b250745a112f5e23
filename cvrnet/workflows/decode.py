"""Decode the images of a job before it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cvrnet.data import ImageCache, Record
from cvrnet.training import TrainConfig
from cvrnet.training.processes import Processes
from cvrnet.workflows.cut_lungs import lung_finder

Stage = Callable[[str], Callable[[int, int], object]]


def decode_images(
    records: Sequence[Record], config: TrainConfig, cache_folder: str | Path | None, processes: Processes, stage: Stage
) -> tuple[ImageCache, list[str]]:
    """Decode and resize the images as the config says; the main process does this first, and the other processes wait.

    For ``stage``, see `Callbacks`.

    Returns:
        The cache with the images, and one line for each image that cannot be read.

    Raises:
        UserError: The config has ``lungs``, but there is no mask and no segmenter.
    """
    cache = ImageCache(
        (config.img_size, config.img_size),
        mode="L" if config.in_chans == 1 else "RGB",
        interpolation=config.interpolation,
        folder=cache_folder,
        grey_version=config.grey_version,
        any_body_part=config.any_body_part,
        ct_window=config.window if config.unit != "image" else "",
        lungs=lung_finder(records, config, cache_folder),
    )
    progress = stage("Decoding") if processes.is_main else None
    with processes.main_first():
        return cache, cache.build(records, progress=progress)
