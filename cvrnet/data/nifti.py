"""Read slices of a CT in a NIfTI file (.nii, .nii.gz). Needs nibabel (extra ``ct``)."""

from __future__ import annotations

import math
import os
import threading
from functools import lru_cache
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvrnet.data.limits import WINDOWS, Mode, Refused

MOST_VOXELS = 2**29  #: the most voxels of a file; the largest CTs of a chest have about 300 million
_AIR = -500.0  # HU; every CT of a chest has voxels below this value
_one_volume = threading.Lock()


def slice_count(path: str | os.PathLike[str]) -> int:
    """Return the number of axial slices; raise Refused if the file is not a volume."""
    return int(_header(path).shape[2])


def read_slice(path: str | os.PathLike[str], number: int | None, mode: Mode, window: str = "") -> NDArray[np.uint8]:
    """Return one axial slice as uint8 (H, W) or (H, W, 3), with the patient's right on the picture's left.

    Slice 1 is nearest to the feet. The volume's axes are reordered first, so the file may store them in any order. The
    window is one of `WINDOWS` (by default ``lung``), linear as in DICOM (PS3.3 C.11.2.1.2.1).

    Raises:
        Refused: ``number`` is None or no slice has this number; or the file is damaged, too large, not a volume, or not
            in Hounsfield units.
    """
    if number is None:
        raise Refused(f"a volume of {slice_count(path)} slices, not an image; --unit study reads it as a study")
    status = os.stat(path)
    with _one_volume:  # one thread decompresses the file; the other threads find the result in memory
        volume, slope, intercept = _volume(os.fspath(path), status.st_mtime_ns, status.st_size)
    if not 1 <= number <= volume.shape[2]:
        raise Refused(f"slice {number} does not exist: expected 1 to {volume.shape[2]}")
    values = volume[:, :, number - 1].T[::-1, ::-1].astype(np.float64) * slope + intercept
    level, width = WINDOWS[window or "lung"]
    grey = ((values - (level - 0.5)) / (width - 1) + 0.5).clip(0, 1) * 255
    picture = np.rint(grey).astype(np.uint8)
    return picture if mode == "L" else np.array(Image.fromarray(picture).convert("RGB"))


def _header(path: str | os.PathLike[str]) -> Any:
    """Return the volume with its axes in nibabel's canonical order (RAS+); its voxels are not read yet."""
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
    except FileNotFoundError as error:
        raise Refused("file not found") from error
    except Exception as error:  # on damaged files nibabel raises nearly every built-in exception
        raise Refused(f"a damaged NIfTI file ({type(error).__name__})") from error
    if len(image.shape) != 3 or min(image.shape) < 2:
        raise Refused(
            f"a NIfTI file of {' x '.join(map(str, image.shape))} voxels; expected a volume of 2 x 2 x 2 voxels or more"
        )
    if (voxels := math.prod(image.shape)) > MOST_VOXELS:
        raise Refused(f"{voxels:,} voxels are more than the {MOST_VOXELS:,} allowed")
    return image


@lru_cache(maxsize=1)
def _volume(path: str, modified: int, size: int) -> tuple[NDArray[Any], float, float]:
    """Return a volume's stored values (x, y, z), its slope and its intercept; the last volume stays in memory."""
    image = _header(path)
    try:
        slope, intercept = (float(value) for value in (image.dataobj.slope, image.dataobj.inter))
        values = np.asanyarray(image.dataobj.get_unscaled())
    except AttributeError:  # a volume whose axes were reordered is an array already
        slope, intercept, values = 1.0, 0.0, np.asanyarray(image.dataobj)
    except Exception as error:
        raise Refused(f"a damaged or truncated NIfTI file ({type(error).__name__})") from error
    if not np.isfinite(lowest := float(values.min()) * slope + intercept):
        raise Refused("some values are not finite")
    if lowest > _AIR:
        raise Refused(f"the lowest value is {lowest:g}: not a CT in Hounsfield units")
    return values, slope, intercept
