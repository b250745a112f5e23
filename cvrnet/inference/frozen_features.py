"""Compute and store, for each image, the pooled feature maps of frozen encoders, and how their left and right differ.

The code calls the differences between the left and right half of a map its sides.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvrnet.copies import copy_network
from cvrnet.data import Augmentation, ImageCache, Preprocessing, Record
from cvrnet.data.array_files import ArrayFiles, image_status
from cvrnet.data.decode_apart import decoding_threads
from cvrnet.devices import kernels, select_device, select_precision
from cvrnet.encoders.fuse_batch_norm import fuse_batch_norm
from cvrnet.errors import UserError
from cvrnet.heads.novelty import join_sides, sides
from cvrnet.inference.head_logits import HeadLogits
from cvrnet.inference.prefetch import map_ahead
from cvrnet.network import CVRNet

FEATURES_VERSION = 1  #: increase this if new code gives other vectors: all stored vectors are then computed again
BATCH = 32  #: number of images in every forward pass; the last batch is filled up, so vectors do not depend on its size
MIRRORED = -1  #: the index of the view that is the mirror image

Vectors = NDArray[np.float32]
Files = Mapping[int, Sequence[ArrayFiles]]  # view -> the files of each encoder


class FrozenFeatures:
    """Computes and stores the pooled feature maps of a network's encoders, for several views of each image.

    View 0 is the image itself. The other views are augmented; they depend only on the augmentation's settings, the
    seed, the view's index and the pixels. For view 0, the sides of the maps (left-right differences, see
    `cvrnet.heads.novelty.sides`) are stored; the sides of the mirror image are computed on demand. The vectors of
    each encoder are stored in files beside the decoded images. The names of these files depend only on the image, the
    view, the encoder, the preprocessing and the number format. So all heads, folds, runs and pairs of encoders can
    share the files.

    Args:
        model: The network; its heads are not used.
        cache: The decoded images, in the network's size. Vectors are stored in the folder of the cache.
        device, amp: Device and number format, as `device` and `dtype` of `Predictor`. The default format is float32,
            because it gives nearly the same vectors on every machine, and heads on frozen encoders are sensitive to
            rounding. Encoders compute as in prediction, with batch norm folded into the convolutions.
        views: Number of views, at least 1.
        augmentation, seed: Settings of the augmented views, which are all views but view 0.
    """

    def __init__(
        self,
        model: CVRNet,
        cache: ImageCache,
        device: str = "auto",
        amp: str = "fp32",
        *,
        views: int = 1,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.device = select_device(device)
        self.precision = select_precision(amp, self.device)
        self.cache, self.views, self.seed = cache, views, seed
        self.augmentation = augmentation or Augmentation()
        self.preprocessing = Preprocessing.from_model(model)
        keys = [self._key(model, i) for i in range(len(model.encoders))]
        widths = [sum(encoder.channels) for encoder in list[Any](model.encoders)]

        def files(kind: str, rows: int) -> list[ArrayFiles]:
            return [
                ArrayFiles(cache.folder, f"{key} {kind}", (1, rows, n), np.float32, cache.version_of)
                for key, n in zip(keys, widths, strict=True)
            ]

        self._files: Files = {v: files(self._view(v), 1) for v in range(views)}
        self._sides: Files = {0: files("sides", 2), MIRRORED: files("sides mirrored", 2)}
        self._spreads: Files = {0: files("spreads", 1)}
        self.width = sum(widths)  #: length of a view's vector: the channels of all maps together
        self.vectors = np.empty((0, views, self.width), np.float32)  #: of the loaded images, (images, views, width)
        self._rows: dict[Path, int] = {}
        self._network: HeadLogits | None = None
        self._model = model

    def build(self, records: Sequence[Record], progress: Callable[[int, int], object] | None = None) -> None:
        """Compute the vectors that are missing, or whose image has changed.

        ``progress`` is called after each batch with the number of views computed so far and the number of all views
        that must be computed. Two images with three views each are six views.

        Raises:
            ImageError: An image cannot be read.
            UserError: The folder cannot be read or written.
        """
        self._complete(self._files, records, progress)

    def _complete(
        self, wanted: Files, records: Sequence[Record], progress: Callable[[int, int], object] | None = None
    ) -> None:
        """Compute and store all vectors of each image and view that lacks one of the `wanted` files.

        Spreads (see `spreads`) are computed only if `wanted` has the files of the spreads.
        """
        spread = wanted is self._spreads
        todo = [
            (record, view)
            for view, files in wanted.items()
            for record in records
            if not all(kept.has(record.path) for kept in files)
        ]
        loaded = map_ahead(self._image, todo, BATCH, decoding_threads(os.cpu_count(), "cvrnet-reader"))
        done = 0
        while batch := list(itertools.islice(loaded, BATCH)):
            images = [image for _, (image, _) in batch]
            images += [torch.zeros_like(images[0])] * (BATCH - len(images))
            for encoder, vectors in enumerate(self._compute(torch.stack(images), spread)):
                # not strict: a batch that was filled up has more vectors than images
                for ((record, view), (_, status)), rows in zip(batch, vectors, strict=False):
                    kinds = [(self._files, rows[:1]), (self._sides, rows[1:3])]
                    for kind, vector in [*kinds, (self._spreads, rows[3:])] if spread else kinds:
                        if view in kind:
                            kind[view][encoder].write(record.path, vector, status)
            done += len(batch)
            if progress is not None:
                progress(done, len(todo))

    def load(self, records: Sequence[Record], progress: Callable[[int, int], object] | None = None) -> None:
        """Compute the missing vectors of images, and collect all vectors of these images in ``vectors``.

        ``vectors`` is an array in a memory-mapped file without a name.

        Raises:
            ImageError, UserError: See `build`.
            OSError: The disk is full.
        """
        self.build(records, progress)
        self.vectors = self._table(len(records))
        for i, record in enumerate(records):
            self._rows[record.path] = i
            for view in self._files:
                self.vectors[i, view] = self._vector(self._files, view, record)[0]

    def rows(self, records: Sequence[Record]) -> list[int]:
        """Return the index of each image on the first axis of ``vectors``; `load` must have loaded the images."""
        return [self._rows[record.path] for record in records]

    def sides(self, records: Sequence[Record], view: int = 0) -> Vectors:
        """Return how the left halves of the maps differ from the right halves (`novelty.sides`), (images, 2, width).

        The maps are those of the images (view 0) or of their mirror images (view `MIRRORED`). Differences that are
        missing are computed.
        """
        self._complete({view: self._sides[view]}, records)
        return np.array([self._vector(self._sides, view, record) for record in records])

    def spreads(self, records: Sequence[Record]) -> Vectors:
        """Return the standard deviation over height and width of each channel of all maps, (images, channels).

        The maps are those of view 0, the images themselves. Deviations that are missing are computed. The same forward
        pass also gives the vectors of view 0. They are stored, so that `load` does not compute them again.
        """
        self._complete(self._spreads, records)
        found = [self._vector(self._spreads, 0, record)[0] for record in records]
        return np.array(found, np.float32).reshape(-1, self.width)

    def _table(self, images: int) -> Vectors:
        shape = (images, self.views, self.width)
        with tempfile.TemporaryFile(dir=self.cache.folder) as file:
            if hasattr(os, "posix_fallocate"):  # without it, filling the table on a full disk kills the process
                os.posix_fallocate(file.fileno(), 0, max(math.prod(shape) * 4, 1))
            return np.memmap(file, np.float32, "r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape)

    def _vector(self, files: Files, view: int, record: Record) -> Vectors:
        """Return the stored vectors of a view of an image, concatenated over the encoders: (1 or 2, width)."""
        for attempt in range(2):
            if attempt:  # a file was deleted, or the image has changed
                self._complete(files if files is self._spreads else {view: files[view]}, [record])
            found = [kept.read(record.path) for kept in files[view]]
            whole = [vector[0] for vector in found if vector is not None]
            if len(whole) == len(found):
                return np.concatenate(whole, 1)
        raise UserError(f"{record.path} changed while its features were computed; repeat the command")

    def _image(self, item: tuple[Record, int]) -> tuple[Tensor, os.stat_result]:
        record, view = item
        before = image_status(record.path)
        pixels = self.cache.load(record.path)
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        if view == MIRRORED:
            image = image.flip(2)
        elif view:
            number = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "big")
            image = self.augmentation(image, seed=(self.seed, view, number))
        return image, before

    def _compute(self, images: Tensor, spread: bool = False) -> list[Vectors]:
        """Return the pooled maps, their sides and, if wanted, spreads: (BATCH, 3 or 4, width) for each encoder."""
        x = self.preprocessing.normalize(images.to(self.device, non_blocking=True))
        with torch.inference_mode(), kernels(self.device, self.precision):
            maps = self._frozen().maps(x.contiguous(memory_format=torch.channels_last))
            encoders: Any = self._model.encoders
            rows = [[m.mean((2, 3)).unsqueeze(1), sides(m)] for m in maps]
            if spread:
                rows = [[*row, m.std((2, 3), correction=0).unsqueeze(1)] for row, m in zip(rows, maps, strict=True)]
            pooled = iter([torch.cat(row, 1) for row in rows])
            of_encoders = [torch.cat([next(pooled) for _ in encoder.channels], 2) for encoder in encoders]
        return [vectors.cpu().numpy() for vectors in of_encoders]

    def _frozen(self) -> HeadLogits:
        """Return the network, prepared as for prediction; it is made only if vectors are missing."""
        if self._network is None:
            network = fuse_batch_norm(copy_network(self._model).eval()).to(self.device)
            self._network = HeadLogits(network.to(memory_format=torch.channels_last), self.precision)
        return self._network

    def _key(self, model: CVRNet, index: int) -> str:
        """Return a text that identifies everything that an encoder's vectors depend on, except the image."""
        digest = hashlib.sha256()
        encoder: Any = model.encoders[index]
        for part in (encoder, model.normalizers[index]):
            for name, tensor in (*part.named_parameters(), *part.named_buffers()):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(
                    tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else b""
                )
        cache = self.cache
        settings = (model.encoder_names[index], encoder.map_names, self.precision, self.preprocessing)
        pixels: tuple[object, ...] = (
            cache.size,
            cache.mode,
            cache.interpolation,
            cache.grey_version,
            cache.any_body_part,
        )
        pixels += (cache.ct_window,) if cache.ct_window else ()
        digest.update(f"{settings} {pixels}".encode())
        return f"features {FEATURES_VERSION} {digest.hexdigest()}"

    def _view(self, view: int) -> str:
        return f"view {view} {self.seed} {self.augmentation}" if view else "view 0"


def head_inputs(model: CVRNet, vectors: Tensor) -> list[Tensor]:
    """Return the inputs of a model's heads for N images, in the form in which `CVRNet.pool_maps` returns them.

    ``vectors`` (N, width) has a vector for each image: all its pooled maps, concatenated.
    """
    return model.pool_maps([pooled[:, :, None, None] for pooled in vectors.split(_channels(model), 1)])


def stored_sides(model: CVRNet, vectors: Vectors) -> Tensor:
    """Return the vectors (N, 2 D) that `cvrnet.heads.novelty.join_sides` makes from ``vectors``, (N, 2, width).

    ``vectors`` are from `FrozenFeatures.sides`: the left-right differences in the upper and in the lower half of the
    maps. The width counts the channels of all maps of the encoders, and D those of the maps that the heads use.
    """
    return join_sides(torch.from_numpy(vectors).split(_channels(model), 2), model.groups)


def _channels(model: CVRNet) -> list[int]:
    encoders: Any = model.encoders
    return [c for encoder in encoders for c in encoder.channels]
