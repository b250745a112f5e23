"""Encode the picture and maps of a prediction as one string, which the browser stores instead of the server.

The browser sends the text back when the visitor chooses another class, part or threshold. Any program can send any
text, so the text is validated before memory is allocated for it.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvrnet.data.image import open_picture
from cvrnet.data.limits import Refused
from cvrnet.demo.answering import Answer
from cvrnet.errors import UserError
from cvrnet.explain import draw_overlay
from cvrnet.explain.explaining import enlarge

LONGEST = 640  # pixels of the picture's longer side
_FINEST, _MOST_TEXT = 128, 8_000_000  # most cells along a map's side, and most characters of a text
_SCAN = b"\xff\xda"  # begins each scan of a JPEG file; many scans would take long to decode
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, OSError, RecursionError, SyntaxError, Refused)


@dataclass(frozen=True)
class View:
    """A picture, uint8 (H, W, 3), whose longer side has `LONGEST` pixels; and its Grad-CAM maps.

    ``maps[class][part]`` is the map of a class for a part of the network: uint8 (h, w), scaled so that its highest
    value is 255, or a sentence that says why this map is missing.
    """

    picture: NDArray[np.uint8]
    maps: dict[str, dict[str, NDArray[np.uint8] | str]]

    def draw(self, target: str, part: str, threshold: float) -> NDArray[np.uint8]:
        """Draw one map on the picture, (H, W, 3); if there is no such map, raise UserError with the reason."""
        grid = self.maps.get(target, {}).get(part, f"there is no map of {part!r} for {target!r}")
        if isinstance(grid, str):
            raise UserError(grid)
        cam = enlarge(grid.astype(np.float32) / np.float32(255), self.picture.shape[:2])
        return draw_overlay(self.picture, cam, threshold=threshold)


def pack(answer: Answer) -> str:
    """Encode a prediction as the text that the browser stores."""
    height, width = answer.image.shape[:2]
    scale = LONGEST / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(answer.image).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    maps = {
        target: {part: grid if isinstance(grid, str) else _pack_grid(grid) for part, grid in parts.items()}
        for target, parts in answer.maps.items()
    }
    return json.dumps({"picture": base64.b64encode(jpeg(np.array(picture))).decode(), "maps": maps})


def unpack(text: str) -> View:
    """Decode a text that a browser sent back; raise UserError if the text is not in the format of `pack`."""
    try:
        if len(text) > _MOST_TEXT:
            raise ValueError("too long")
        kept = json.loads(text)
        content = base64.b64decode(kept["picture"], validate=True)
        picture = open_picture(io.BytesIO(content))
        if picture.format != "JPEG" or max(picture.size) > LONGEST or content.count(_SCAN) != 1:
            raise ValueError("not a picture from `pack`: it is no JPEG, is too large, or is a progressive JPEG")
        maps: dict[str, dict[str, NDArray[np.uint8] | str]] = {
            target: {part: grid if isinstance(grid, str) else _unpack_grid(*grid) for part, grid in parts.items()}
            for target, parts in kept["maps"].items()
        }
        return View(np.array(picture.convert("RGB")), maps)
    except _MALFORMED as error:
        raise UserError("this page is out of date; load it again") from error


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture, uint8 (H, W, 3), as the bytes of a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=92, subsampling=0)
    return file.getvalue()


def _pack_grid(grid: NDArray[np.float32]) -> tuple[int, int, str]:
    # A map of a very large image is finer than anybody can see in a picture of LONGEST pixels.
    if max(grid.shape) > _FINEST:
        grid = enlarge(grid, tuple(min(side, _FINEST) for side in grid.shape))
    height, width = grid.shape
    return height, width, base64.b64encode(np.rint(grid * 255).astype(np.uint8).tobytes()).decode()


def _unpack_grid(height: int, width: int, cells: str) -> NDArray[np.uint8]:
    grid = np.frombuffer(base64.b64decode(cells, validate=True), np.uint8).reshape(height, width)
    if not 0 < max(grid.shape) <= _FINEST or not grid.any():
        raise ValueError("no map")
    return grid
