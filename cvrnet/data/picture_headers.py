"""Check the sizes that a picture file declares, before Pillow allocates memory of these sizes."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any, BinaryIO, Literal

import numpy as np

from cvrnet.data.limits import Refused

_EXIF = b"Exif\0\0"
# Bytes per value of each TIFF type (TIFF 6.0, section 2; types 16 to 18 are BigTIFF's).
_UNITS = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8], float)
_DIRECTORIES, _MOST_DIRECTORIES = (0x8769, 0x8825, 0xA005), 10  # tags that point to EXIF and GPS tags
_MOST_EXIF = 1_000_000  # bytes; a JPEG segment has at most 64 kB, and Pillow joins the segments


def webp_size(chunk: bytes) -> tuple[int, int]:
    """Return width and height of a WebP file, from its first chunk (RFC 9649, section 2).

    >>> webp_size(b"VP8X" + bytes.fromhex("0a000000 00000000 3f0000 1f0000"))
    (64, 32)
    """
    kind, content = chunk[:4], chunk[8:].ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")
    if kind == b"VP8L":
        both = int.from_bytes(content[1:5], "little")
        return 1 + (both & 0x3FFF), 1 + (both >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise Refused("damaged or not supported: a WebP file without a picture")


def check_directory(file: BinaryIO) -> None:
    """Refuse a TIFF file, or a block of EXIF, whose tags together declare more bytes than it has.

    Several tags can refer to the same bytes of the file. Pillow copies these bytes for each tag, so a small file could
    fill the memory. After the call, the file position is the start of the file.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = file.read(16).ljust(16, b"\0")
    order: Literal["<", ">"] = ">" if header.startswith(b"MM") else "<"
    if struct.unpack_from(f"{order}H", header, 2)[0] == 43:  # BigTIFF
        number, count, start = "u8", 8, struct.unpack_from(f"{order}Q", header, 8)[0]
    else:
        number, count, start = "u4", 2, struct.unpack_from(f"{order}I", header, 4)[0]
    entry = np.dtype([("tag", "u2"), ("type", "u2"), ("count", number), ("value", number)]).newbyteorder(order)
    total, todo = 0.0, [start]
    for start in todo:
        file.seek(min(start, size))
        tags = int.from_bytes(file.read(count), "big" if order == ">" else "little")
        table = file.read(entry.itemsize * min(tags, 2**16))
        entries = np.frombuffer(table[: len(table) // entry.itemsize * entry.itemsize], entry)
        lengths = _UNITS[np.where(entries["type"] < len(_UNITS), entries["type"], 0)] * entries["count"]
        elsewhere = (lengths > entry["value"].itemsize) & (lengths + entries["value"] <= size)
        total += lengths[elsewhere].sum()
        if tags > 2**16 or total > size or len(todo) > _MOST_DIRECTORIES:
            raise Refused("damaged: its tags declare more bytes than the file has")
        todo += entries["value"][np.isin(entries["tag"], _DIRECTORIES)].tolist()
    file.seek(0)


def check_exif(info: Mapping[Any, Any]) -> None:
    """Like `check_directory`, but for the EXIF in Pillow's ``Image.info``, which Pillow parses only on request."""
    block = info.get("exif")
    if block is None and isinstance(text := info.get("Raw profile type exif"), str):  # as in `Image.getexif`
        with suppress(ValueError):
            block = bytes.fromhex("".join(text.split("\n")[3:]))
    _check_block(block or b"")


def _check_block(block: bytes) -> None:
    while block.startswith(_EXIF):
        block = block[len(_EXIF) :]
    check_directory(BytesIO(block))


def check_jpeg_exif(file: BinaryIO) -> None:
    """Like `check_directory`, but for the EXIF of a JPEG file, which Pillow reads when it opens the file."""
    blocks, length = [], 0
    file.seek(2)
    while len(header := file.read(4)) == 4 and header[:2] != b"\xff\xda":  # until the first scan
        if header[0] != 0xFF or header[1] == 0xFF or header[1] in (0, *range(0xD0, 0xDA)):  # a marker without content
            file.seek((2 if header[0] == 0xFF and header[1] != 0xFF else 1) - len(header), os.SEEK_CUR)
            continue
        content = file.read(max(int.from_bytes(header[2:], "big") - 2, 0))
        if header[1] == 0xE1 and content.startswith(_EXIF):
            blocks.append(content[len(_EXIF) :])
            length += len(content)
            if length > _MOST_EXIF or len(blocks) > 100:
                raise Refused("its EXIF is longer than any camera writes")
    if blocks:
        _check_block(b"".join(blocks))
    file.seek(0)
