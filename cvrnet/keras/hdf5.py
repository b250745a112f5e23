"""Read the weights in an untrusted HDF5 file of Keras 2, without opening any other file.

An HDF5 file can point to other files (external links, external storage, virtual datasets), declare sizes that it does
not hold, and run filters when it is read. Keras writes plain contiguous datasets behind hard links. Nothing else is
accepted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from cvrnet.errors import UserError
from cvrnet.keras.layers import quoted

FORMAT = "expected HDF5 from Keras 2's save_weights or model.save"

LayerWeights = Mapping[str, Mapping[str, h5py.Dataset]]  # layer -> name (``kernel`` and so on) -> weight, not yet read


@contextmanager
def open_weights(path: str | Path) -> Iterator[LayerWeights]:
    """Open a file of ``save_weights`` or ``model.save``; yield the layers that have weights.

    Raises UserError if the file is not HDF5 from Keras, is damaged or stores weights in other files. The messages of
    user errors that are raised in the ``with`` block get the file's path in front.
    """
    try:
        if not Path(path).is_file():
            raise UserError(f"no such file; {FORMAT}")
        if not h5py.is_hdf5(path):
            raise UserError(f"not an HDF5 file; {FORMAT}")
        with h5py.File(path, "r") as file:
            yield _find_weights(file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:  # all of them h5py's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: damaged HDF5 file ({reason[:200]})") from error


def read_values(dataset: h5py.Dataset) -> np.ndarray:
    """Read a weight; raise UserError if it has fewer bytes than its shape declares, or values that are not finite.

    The caller checks the shape first, because the declared size is allocated.
    """
    declared, stored = 4 * math.prod(dataset.shape), dataset.id.get_storage_size()
    if stored != declared:
        raise UserError(f"{quoted(dataset.name)} declares {declared} bytes and has {stored}")
    values = np.asarray(dataset[()])
    if not np.isfinite(values).all():
        raise UserError(f"{quoted(dataset.name)} has values that are not finite")
    return values


def _find_weights(file: h5py.File) -> dict[str, dict[str, h5py.Dataset]]:
    """Find every dataset LAYER/.../NAME:0 of ``save_weights``; ``model.save`` puts them into a group model_weights."""
    root: h5py.Group = file
    if isinstance(file.get("model_weights", getlink=True), h5py.HardLink):
        root = file["model_weights"]
    backend = root.attrs.get("backend", "tensorflow")
    backend = backend.decode() if isinstance(backend, bytes) else str(backend)
    if backend != "tensorflow":  # Theano, for one, flips convolution kernels
        raise UserError(f"weights of Keras on {quoted(backend)}; expected Keras on 'tensorflow'")
    objects: dict[str, h5py.Group | h5py.Dataset] = {}
    root.visititems(objects.__setitem__)  # follows hard links only, which cannot leave the file
    layers: dict[str, dict[str, h5py.Dataset]] = {}
    for path, dataset in objects.items():
        if isinstance(dataset, h5py.Dataset):
            _check_plain(dataset)
            layer, name = path.split("/")[0], path.split("/")[-1].removesuffix(":0")
            if name in layers.setdefault(layer, {}):
                raise UserError(f"layer {quoted(layer)} has two weights {quoted(name)}")
            layers[layer][name] = dataset
    return layers


def _check_plain(dataset: h5py.Dataset) -> None:
    """Raise UserError if a dataset is not stored in plain form.

    This must come before its shape is read, for which HDF5 would open the source files of a virtual dataset.
    """
    name, storage = quoted(dataset.name), dataset.id.get_create_plist()
    layout = storage.get_layout()
    if layout == h5py.h5d.VIRTUAL or storage.get_external_count():
        raise UserError(f"{name} is stored in another file, which is not read")
    if layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or storage.get_nfilters():
        raise UserError(f"{name} is stored in chunks or compressed; {FORMAT}, which write plain arrays")
    if dataset.shape is None or dataset.dtype != np.float32:
        raise UserError(f"{name} is of type {dataset.dtype}; expected float32")
