"""Local features found and compared once for each picture: the tests audit the same phantoms again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cvrnet.audit import duplicates, measurements

_MOST = 1000  # pictures, with about 30 kB each


def describe_once(patch: pytest.MonkeyPatch) -> None:
    """Keep the local features of the last pictures, because the audit spends most of its time on them."""
    really, found = measurements.describe, {}

    def describe(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        key = picture.shape, picture.tobytes()
        if key not in found:
            if len(found) == _MOST:
                found.clear()
            found[key] = really(picture)
        return found[key]

    patch.setattr(measurements, "describe", describe)


def compare_once(patch: pytest.MonkeyPatch) -> None:
    """Keep the pairs of pictures that share features, for each set of pictures."""
    really, found = duplicates.neighbours, {}

    def neighbours(descriptors: np.ndarray, *numbers: np.ndarray, seed: int) -> Any:
        key = hashlib.sha256(repr((seed, descriptors.shape)).encode())
        for array in (descriptors, *numbers):
            key.update(np.ascontiguousarray(array))
        if key.digest() not in found:
            found[key.digest()] = list(really(descriptors, *numbers, seed=seed))
        return found[key.digest()]

    patch.setattr(duplicates, "neighbours", neighbours)


@pytest.fixture(scope="module", autouse=True)
def no_local_features() -> Iterator[None]:
    """Find none, where no test looks at copies of pictures; for a test file to import."""
    nothing = np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurements, "describe", lambda picture: nothing)
        yield
