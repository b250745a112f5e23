"""Check the size that a compressed frame of a DICOM file declares in its own markers, before a decoder reads it.

A decoder allocates the size that the codestream declares, which may be far larger than Rows and Columns. So the frame
must declare the same size as the tags: the size in the tags has already been checked.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from cvrnet.data.limits import LARGE, Refused, check_scans


class FrameSize(NamedTuple):
    """The size of a frame as the file's tags give it; ``bits`` is BitsAllocated."""

    rows: int
    columns: int
    samples: int
    bits: int


_JP2 = bytes.fromhex("0000000c 6a502020 0d0a870a")  # signature box (ISO/IEC 15444-1 I.5.1)
_SOC_SIZ = b"\xff\x4f\xff\x51"
# A marker (ISO/IEC 10918-1 table B.1), except restarts. After 0xFF, bytes below 0x80 are stuffed data of JPEG-LS.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_RESERVED = re.compile(rb"\xff[\x01-\xbf]")
_SOI, _EOI, _SOS, _SOF_LS = 0xD8, 0xD9, 0xDA, 0xF7
_SIZES = {*range(0xC0, 0xD0), 0xDE, _SOF_LS} - {0xC4, 0xC8, 0xCC}  # markers that start a frame; DHT, JPG and DAC do not
# Huffman-coded frames (baseline, extended sequential, lossless), DHT, SOS, DQT, DRI, comments, APPn except JPEG XT's
_ORDINARY = {0xC0, 0xC1, 0xC3, 0xC4, _SOS, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)} - {0xEB}
_MAX_RUN = 64  # the most decoded bytes for each byte of RLE data (PS3.5 G.3.1)
_MAX_RLE = 256_000_000  # decoded bytes


def check_frame(frame: bytes, size: FrameSize, coding: str) -> bool:
    """Return whether a compressed frame is ordinary, which means that any decoder reads it in little memory and time.

    Args:
        frame: the codestream of one frame.
        size: the size in the tags.
        coding: ``"jpeg"`` (JPEG and JPEG-LS), ``"jpeg2000"`` (JPEG 2000 and HTJ2K, which are never ordinary) or
            ``"rle"``. For any other value, nothing is checked, and the result is False.

    Raises:
        Refused: The frame is damaged, has too many scans, does not declare its size, or declares another size, another
            number of samples or more bits than the tags.
    """
    if coding == "rle":
        return len(frame) * _MAX_RUN <= _MAX_RLE
    try:
        if coding == "jpeg":
            return _check_jpeg(frame, size)
        if coding == "jpeg2000":
            _check_jpeg2000(frame, size)
    except (struct.error, OverflowError):
        raise Refused("the compressed image is damaged: its header is cut off") from None
    return False


def _check_jpeg(data: bytes, size: FrameSize) -> bool:
    if data[:2] != b"\xff\xd8":
        raise Refused("the compressed image is not JPEG, although its transfer syntax says so")
    scans, frames, ordinary = 0, 0, size.rows * size.columns <= LARGE
    for marker, segment, adjoining in _segments(data):
        ordinary = ordinary and adjoining and marker in _ORDINARY
        if marker == _SOS:
            scans += 1
        elif marker in _SIZES:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", segment)
            _agree(size, rows, columns, samples, bits)
            frames += 1
    if not frames:
        raise Refused("the compressed image does not say how large it is")
    check_scans(scans, size.rows * size.columns)
    return ordinary and frames == 1 and scans <= size.samples


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """Yield marker and content of each segment up to the end of the image, and whether it adjoins the previous one."""
    at, coded = 2, False  # coded: the data of a scan come before the next marker
    while found := _MARKER.search(data, at):
        marker = found[1][0]
        between = data[at : found.start()]
        adjoining = not (_RESERVED.search(between) if coded else between.strip(b"\xff"))
        if marker == _EOI:
            if not adjoining or data[found.end() :].strip(b"\0"):
                yield _EOI, b"", False
            return
        if marker == _SOI:  # a second image
            yield _SOI, b"", False
            at = found.end()
            continue
        (length,) = struct.unpack_from(">H", data, found.end())
        at, coded = found.end() + max(length, 2), marker == _SOS
        yield marker, data[found.end() + 2 : at], adjoining
    yield _EOI, b"", False  # the end of the image is missing


def _check_jpeg2000(data: bytes, size: FrameSize) -> None:
    at = _codestream(data) if data.startswith(_JP2) else 0
    if data[at : at + 4] != _SOC_SIZ:
        raise Refused("the compressed image is not JPEG 2000, although its transfer syntax says so")
    # ISO/IEC 15444-1 A.5.1
    right, lower, left, upper, tile_width, tile_height, *_, samples = struct.unpack_from(">8IH", data, at + 8)
    if not tile_width or not tile_height:
        raise Refused("the compressed image is damaged: it has tiles of width or height 0")
    for number in range(min(samples, size.samples + 1)):
        bits, x_step, y_step = struct.unpack_from("3B", data, at + 42 + 3 * number)
        _agree(size, lower - upper, right - left, samples, (bits & 0x7F) + 1)
        if x_step not in (1, 2) or y_step not in (1, 2):
            raise Refused("the compressed image is damaged: it has a component with impossible sampling")
    if not samples:
        _agree(size, lower - upper, right - left, samples, 0)


def _codestream(data: bytes) -> int:
    """Return the byte where a JP2 file's first codestream starts, found box by box (ISO/IEC 15444-1 I.4)."""
    at = 0
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        header = 8
        if length == 1:
            (length,), header = struct.unpack_from(">Q", data, at + 8), 16
        if kind == b"jp2c":
            return at + header
        if length < header:  # 0: up to the end of the file
            raise Refused("the compressed image is damaged: it has a box that is too small")
        at += length


def _agree(size: FrameSize, rows: int, columns: int, samples: int, bits: int) -> None:
    if (rows, columns) != size[:2]:
        raise Refused("the compressed image does not have the size that the tags say")
    if samples != size.samples:
        raise Refused(f"the compressed image has {samples} samples per pixel: the tags say {size.samples}")
    if bits > size.bits:
        raise Refused(f"the compressed image has {bits} bits per sample: the tags say at most {size.bits}")
