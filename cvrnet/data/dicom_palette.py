"""Turn the palette indices that a DICOM file stores into colours."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_color_lut

from cvrnet.data.dicom_grey import table_entries

_COLOURS = ("Red", "Green", "Blue")


def palette_picture(indices: np.ndarray, header: Dataset) -> np.ndarray:
    """Return the RGB colours, uint8 (H, W, 3), of indices (H, W).

    Each channel of a colour is the 8 highest bits of an entry in the palette of this channel.
    """
    count, first, depth = (int(number) for number in header.RedPaletteColorLookupTableDescriptor)
    if "RedPaletteColorLookupTableData" not in header:  # segmented palettes (PS3.3 C.7.9.2)
        return (apply_color_lut(indices, header)[..., :3] >> (depth - 8)).astype(np.uint8)
    data = [header[f"{colour}PaletteColorLookupTableData"].value for colour in _COLOURS]
    # Pass depth 8, whatever depth is declared: a table with half as many words as entries contains bytes, as in
    # apply_color_lut.
    palettes = np.stack([table_entries(one, count, 8, header) for one in data], axis=-1)
    largest = int(palettes.max())
    if largest < 256:  # bytes, or words that contain 8 bits (PS3.3 C.7.6.3.1.6)
        depth = 8
    elif largest >= 2**depth:
        depth = 16
    palettes = (palettes >> (depth - 8)).astype(np.uint8)
    if first >= 2**15 and indices.dtype.kind == "i":  # a negative value, written as US (unsigned)
        first -= 2**16
    picture = np.empty((*indices.shape, 3), np.uint8)
    for row, target in zip(indices, picture, strict=True):  # row by row: NumPy converts each index to 8 bytes
        target[...] = palettes[np.clip(row.astype(np.int64) - first, 0, len(palettes) - 1)]
    return picture
