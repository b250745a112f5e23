"""Program that writes the weights in an HDF5 file from Keras to standard output; its argument is the path of the file.

On damaged files the HDF5 library may crash or request any amount of memory. So this program runs in a separate process
with a memory limit. It imports nothing of the package, because such imports would take seconds.

An HDF5 file can point to other files (external links, external storage, virtual datasets), declare more bytes than it
holds, and run filters when it is read. Keras writes neither links to other files nor chunked or compressed datasets, so
the program does not accept them.

The first line of standard output is JSON: the problem with the file ("" if there is none), and a list of its weights,
each with layer, name, path in the file, shape, declared and stored bytes. Then come the float32 values of all weights
whose declared and stored bytes agree.
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import IO, Any

import h5py
import numpy as np

FORMAT = "expected HDF5 from Keras 2's save_weights or model.save"
_MEMORY = 2_000_000_000  # bytes, in addition to the size of the file


class UnfitError(Exception):
    """The file differs from the files that Keras writes; it may be undamaged."""


def main(path: str) -> None:
    """Read the file at `path`, and write its weights to standard output.

    The memory limit is set on Linux only, because other systems do not enforce it.
    """
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        size = _MEMORY + os.path.getsize(path)
        resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))
    output = sys.stdout.buffer
    weights: list[dict[str, Any]] = []
    values: list[np.ndarray] = []
    problem = ""
    try:
        with h5py.File(path, "r") as file:
            for weight, dataset in _find(file):
                weights.append(weight)
                if weight["stored"] == weight["declared"]:
                    values.append(np.ascontiguousarray(dataset[()], "<f4"))
                if sum(value.nbytes for value in values) > os.path.getsize(path):
                    raise UnfitError("damaged HDF5 file (several weights are stored in the same place)")
    except UnfitError as error:
        problem = str(error)
    except MemoryError:
        problem = "damaged HDF5 file (reading it takes too much memory)"
    except Exception as error:  # noqa: BLE001  on damaged files h5py raises nearly every built-in exception
        reason = " ".join(str(error).split()) or type(error).__name__
        problem = f"damaged HDF5 file ({reason[:200]})"
    _send(output, {"problem": problem, "weights": [] if problem else weights}, [] if problem else values)


def _send(output: IO[bytes], message: dict[str, Any], values: list[np.ndarray]) -> None:
    output.write(json.dumps(message).encode() + b"\n")
    for array in values:
        output.write(array.data.cast("B") if array.size else b"")
    output.flush()


def _find(file: h5py.File) -> list[tuple[dict[str, Any], h5py.Dataset]]:
    """Find every dataset LAYER/.../NAME:0 of ``save_weights``; ``model.save`` puts them into a group model_weights."""
    root: h5py.Group = file
    if isinstance(file.get("model_weights", getlink=True), h5py.HardLink):
        root = file["model_weights"]
    backend = root.attrs.get("backend", "tensorflow")
    backend = backend.decode() if isinstance(backend, bytes) else str(backend)
    if backend != "tensorflow":  # Theano, for example, flips convolution kernels
        raise UnfitError(f"weights from Keras's backend {_quoted(backend)}; expected the backend 'tensorflow'")
    objects: dict[str, h5py.Group | h5py.Dataset] = {}
    root.visititems(objects.__setitem__)  # follows hard links only, which cannot leave the file
    found = []
    for path, dataset in objects.items():
        if isinstance(dataset, h5py.Dataset):
            _check_plain(dataset)
            weight = {
                "layer": path.split("/")[0],
                "name": path.split("/")[-1].removesuffix(":0"),
                "path": dataset.name,
                "shape": dataset.shape,
                "declared": 4 * math.prod(dataset.shape),
                "stored": dataset.id.get_storage_size(),
            }
            found.append((weight, dataset))
    return found


def _check_plain(dataset: h5py.Dataset) -> None:
    """Raise UnfitError if a dataset is not stored in plain form.

    This must happen before the shape is read: to find the shape of a virtual dataset, HDF5 would open its source files.
    """
    name, storage = _quoted(dataset.name), dataset.id.get_create_plist()
    layout = storage.get_layout()
    if layout == h5py.h5d.VIRTUAL or storage.get_external_count():
        raise UnfitError(f"{name} is stored in another file, which is not read")
    if layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or storage.get_nfilters():
        raise UnfitError(f"{name} is stored in chunks or compressed; {FORMAT}, which write plain arrays")
    if dataset.shape is None or dataset.dtype != np.float32:
        raise UnfitError(f"{name} is of type {dataset.dtype}; expected float32")


def _quoted(name: str) -> str:
    """Like ``cvrnet.keras.layers.quoted``."""
    return repr(name if len(name) <= 80 else name[:77] + "...")


if __name__ == "__main__":
    main(sys.argv[1])
