"""Weights in the HDF5 layout of Keras 2: read with suspicion, and never from any file but the one named.

An HDF5 file may point elsewhere (external links, external storage, virtual datasets), declare what it does not hold,
or run filters on what it does. Keras writes plain contiguous datasets behind hard links; nothing else is opened here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from cvrnet.errors import UserError
from cvrnet.keras.layers import quoted

MAX_NAMES = 10_000
"""Names in a list; the notebook's network has 344 layers."""
MAX_LIST_BYTES = 1 << 20
"""Bytes of one list of names; Keras splits lists at 64,512."""
FORMAT = "expected HDF5 from Keras 2's save_weights or model.save"


@dataclass(frozen=True)
class StoredWeight:
    """A float32 array in an HDF5 file, whose values are not read yet.

    Attributes:
        file: The HDF5 file.
        place: Where in it, as the file's lists of names say.
        shape: What it declares.
        dataset: The open dataset.
    """

    file: Path
    place: str
    shape: tuple[int, ...]
    dataset: h5py.Dataset

    def read(self) -> np.ndarray:
        """The values. Only call it when the shape is the one that you expect: it is what will be allocated.

        Raises:
            UserError: The file holds less than the shape says, or values that are not finite.
        """
        with _told_of(self.file):
            declared, stored = 4 * math.prod(self.shape), self.dataset.id.get_storage_size()
            if stored != declared:
                raise UserError(f"{quoted(self.place)} declares {declared} bytes and has {stored}")
            values = np.asarray(self.dataset[()])
            if not np.isfinite(values).all():
                raise UserError(f"{quoted(self.place)} has values that are not finite")
            return values


LayerWeights = Mapping[str, Mapping[str, StoredWeight]]


@contextmanager
def open_weights(path: str | Path) -> Iterator[LayerWeights]:
    """The layers that have weights, by name, each with its weights by name (``kernel``, ``gamma`` and so on).

    Files of ``save_weights`` and of ``model.save`` are both read. What is yielded is checked to lie in this file.

    Args:
        path: The HDF5 file.

    Raises:
        UserError: In one line: not such a file, damaged, or one that points outside itself.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {FORMAT}")
    with _told_of(path):
        if not h5py.is_hdf5(path):
            raise UserError(f"not an HDF5 file; {FORMAT}")
        file = h5py.File(path, "r")
    with file:
        with _told_of(path):
            layers = _read_layers(file, path)
        yield layers


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Errors in one line that begins with the file's path, those of HDF5 too."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: damaged HDF5 file ({reason[:200]})") from error


def _read_layers(file: h5py.File, path: Path) -> dict[str, dict[str, StoredWeight]]:
    root: h5py.Group = file
    if "layer_names" not in file.attrs and "layer_names0" not in file.attrs and _has_link(file, "model_weights"):
        root = _open(file, "model_weights", h5py.Group)
    names = _read_names(root, "layer_names")
    if names is None:
        raise UserError(f"no Keras weights: there is no list of layers ('layer_names'); {FORMAT}")
    backend = _read_text(root, "backend")
    if backend not in (None, "tensorflow"):
        raise UserError(f"weights of Keras on {quoted(backend)}, which lays them out otherwise; expected 'tensorflow'")
    if len(set(names)) != len(names):
        raise UserError("the list of layers names one of them twice")
    unlisted = sorted(set(root) - set(names) - {"top_level_model_weights"})  # the last is tf.keras's, and empty
    if unlisted:
        raise UserError(f"surplus, since not in the list of layers: {', '.join(map(quoted, unlisted[:20]))}")
    layers = {name: _read_layer(root, name, path) for name in names}
    return {name: weights for name, weights in layers.items() if weights}


def _read_layer(root: h5py.Group, layer: str, file: Path) -> dict[str, StoredWeight]:
    group = _open(root, layer, h5py.Group)
    places = _read_names(group, "weight_names")
    if places is None:
        raise UserError(f"layer {quoted(layer)} has no list of weights ('weight_names')")
    weights: dict[str, StoredWeight] = {}
    for place in places:
        name = place.rsplit("/", 1)[-1].removesuffix(":0")
        if name in weights:
            raise UserError(f"layer {quoted(layer)} has two weights {quoted(name)}")
        dataset = _open(group, place, h5py.Dataset)
        _check_plain(dataset, place)
        weights[name] = StoredWeight(file, place, dataset.shape, dataset)
    return weights


def _has_link(group: h5py.Group, name: str) -> bool:
    """Whether the group has a link of that name; ``name in group`` would follow it, into another file too."""
    return bool(name not in ("", ".") and "/" not in name and group.id.links.exists(name.encode()))


def _open(group: h5py.Group, path: str, kind: type[h5py.Group] | type[h5py.Dataset]) -> h5py.Group | h5py.Dataset:
    """Open an object along hard links only: those stay in the file."""
    node = group
    for part in path.split("/"):
        if not isinstance(node, h5py.Group) or not _has_link(node, part):
            raise UserError(f"{quoted(path)} is listed in {quoted(group.name)} and missing there")
        if node.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise UserError(f"{quoted(path)} in {quoted(group.name)} is a link to elsewhere; links are not followed")
        node = node[part]
    if not isinstance(node, kind):
        raise UserError(f"{quoted(path)} in {quoted(group.name)} is not a {kind.__name__.lower()}")
    return node


def _check_plain(dataset: h5py.Dataset, name: str) -> None:
    """Refuse what is stored elsewhere, before anything asks for its shape; a virtual one would open its sources."""
    storage = dataset.id.get_create_plist()
    layout = storage.get_layout()
    if layout == h5py.h5d.VIRTUAL or storage.get_external_count():
        raise UserError(f"{quoted(name)} is stored in another file, which is not read")
    if layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or storage.get_nfilters():
        raise UserError(f"{quoted(name)} is stored in chunks or compressed; {FORMAT}, which write plain arrays")
    if dataset.shape is None or dataset.dtype != np.float32:
        raise UserError(f"{quoted(name)} is of type {dataset.dtype}; expected float32")


def _read_names(group: h5py.Group, attribute: str) -> list[str] | None:
    """A list of names, whole or in Keras's numbered pieces (``layer_names0`` and so on); None where there is none."""
    if attribute in group.attrs:
        return _read_list(group, attribute)
    names: list[str] = []
    pieces = 0
    while f"{attribute}{pieces}" in group.attrs:
        names += _read_list(group, f"{attribute}{pieces}")
        pieces += 1
    return names if pieces else None


def _read_list(group: h5py.Group, attribute: str) -> list[str]:
    stored = group.attrs.get_id(attribute)
    if stored.shape is None or math.prod(stored.shape) == 0:  # a layer without weights; its type is then float64
        return []
    if len(stored.shape) != 1 or stored.shape[0] > MAX_NAMES or stored.get_storage_size() > MAX_LIST_BYTES:
        raise UserError(f"{quoted(attribute)} of {quoted(group.name)} is no list of up to {MAX_NAMES} names")
    if h5py.check_string_dtype(stored.dtype) is None:
        raise UserError(f"{quoted(attribute)} of {quoted(group.name)} is of type {stored.dtype}; expected names")
    return [v.decode() if isinstance(v, bytes) else str(v) for v in group.attrs[attribute]]


def _read_text(group: h5py.Group, attribute: str) -> str | None:
    if attribute not in group.attrs:
        return None
    stored = group.attrs.get_id(attribute)
    if stored.shape != () or h5py.check_string_dtype(stored.dtype) is None or stored.get_storage_size() > 1024:
        raise UserError(f"{quoted(attribute)} of {quoted(group.name)} is not a word")
    value = group.attrs[attribute]
    return value.decode() if isinstance(value, bytes) else str(value)
