"""Read the weights in an untrusted HDF5 file of Keras 2, in a separate process (hdf5_program.py says why)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cvrnet.errors import UserError
from cvrnet.keras import hdf5_program
from cvrnet.keras.hdf5_program import FORMAT
from cvrnet.keras.layers import quoted

SECONDS, BYTES_PER_SECOND = 60, 10_000_000  # time limit: SECONDS + file size / BYTES_PER_SECOND, enough for slow disks


@dataclass(frozen=True)
class StoredWeight:
    """A weight in an HDF5 file: its declared shape, and its bytes (empty if their number does not fit the shape)."""

    path: str  #: path of the dataset in the file
    shape: tuple[int, ...]
    declared: int  #: number of bytes that the shape needs
    stored: int  #: number of bytes that the file holds
    content: memoryview  #: the stored bytes; empty if ``stored`` is not ``declared``

    def values(self) -> np.ndarray:
        """Return the float32 values; raise UserError if the file lacks some of them, or if they are not finite."""
        if self.stored != self.declared:
            found = f"{quoted(self.path)} has {self.stored} of its {self.declared} bytes"
            raise UserError(f"{found}: the file is incomplete")
        values = np.frombuffer(self.content, "<f4").reshape(self.shape)
        if not np.isfinite(values).all():
            raise UserError(f"{quoted(self.path)} has values that are not finite")
        return values


LayerWeights = Mapping[str, Mapping[str, StoredWeight]]  # layer -> name (``kernel`` and so on) -> weight


def read_weights(path: str | Path) -> LayerWeights:
    """Read all weights in a file that ``save_weights`` or ``model.save`` wrote.

    Raises:
        UserError: The file is missing or damaged, or was not written by Keras 2; or it stores weights in other files.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such file; {FORMAT}")
    if not h5py.is_hdf5(path):  # looks for the signature only
        raise UserError(f"not an HDF5 file; {FORMAT}")
    output = _run_program(path)
    end = output.index(b"\n")
    message = json.loads(output[:end])
    if message["problem"]:
        raise UserError(message["problem"])
    values = bytearray(memoryview(output)[end + 1 :])  # writable, as PyTorch wants it
    return _weights(message["weights"], memoryview(values))


def _run_program(path: Path) -> bytes:
    program = hdf5_program.__file__
    start = f"import runpy, sys; sys.path[:] = {sys.path!r}; runpy.run_path({program!r}, run_name='__main__')"
    seconds = SECONDS + path.stat().st_size / BYTES_PER_SECOND
    try:
        done = subprocess.run(
            [sys.executable, "-c", start, str(path.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # threads would take memory
            timeout=seconds,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"damaged HDF5 file (reading it takes longer than {seconds:.0f} seconds)") from error
    except subprocess.CalledProcessError as error:
        raise UserError("damaged HDF5 file (the HDF5 library crashed on it)") from error
    return done.stdout


def _weights(listed: list[dict[str, Any]], content: memoryview) -> dict[str, dict[str, StoredWeight]]:
    layers: dict[str, dict[str, StoredWeight]] = {}
    start = 0
    for weight in listed:
        layer, name, stored = weight["layer"], weight["name"], weight["stored"]
        if name in layers.setdefault(layer, {}):
            raise UserError(f"layer {quoted(layer)} has two weights with the name {quoted(name)}")
        end = start + stored if stored == weight["declared"] else start
        layers[layer][name] = StoredWeight(
            weight["path"], tuple(weight["shape"]), weight["declared"], stored, content[start:end]
        )
        start = end
    return layers
