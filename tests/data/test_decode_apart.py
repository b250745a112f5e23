"""Decoding in a child process: the same pixels, within limits of memory and time, and Ctrl-C is heard at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.pixels import pixel_array

from cvrnet.data import ImageError, decode_apart, decoder, dicom, read_image
from cvrnet.data.decode_apart import decoding_threads
from cvrnet.data.limits import Refused
from tests.support.signals import sigint

GREY = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
JPEG_2000 = {
    "transfer_syntax": "1.2.840.10008.1.2.4.90",
    **{"rows": 48, "columns": 64, "samples_per_pixel": 1, "bits_allocated": 8, "bits_stored": 8},
    **{"pixel_representation": 0, "photometric_interpretation": "MONOCHROME2", "number_of_frames": 1},
}
FUNCTIONS, _, MAIN = Path(decoder.__file__).read_text().partition("\ndef main()")
HANGS = 'send(sys.stdout.buffer, ["ready"], b"")\nimport time\ntime.sleep(300)\n'


def decode(pixels: np.ndarray = GREY) -> np.ndarray:
    return decode_apart.decode_apart(bytes(encode_array(pixels, bits_stored=8)), JPEG_2000, pixels.size)


def refused(path: Path) -> str:
    with pytest.raises(ImageError) as error:
        read_image(path)
    assert "\n" not in str(error.value)
    return error.value.reason


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Replaces the decoder's program by another one, and the idle children by none."""
    monkeypatch.setattr(decode_apart, "_idle", [])

    def replace(program: str) -> None:
        path = tmp_path / "decoder.py"
        path.write_text(f"{FUNCTIONS}\n{program}")
        monkeypatch.setattr(decoder, "__file__", str(path))

    yield replace
    decode_apart._end_all()


def test_the_pixels_are_those_of_the_decoder_and_the_child_stays():
    np.testing.assert_array_equal(decode(), GREY)
    (first,) = (child.process.pid for child in decode_apart._idle[-1:])
    np.testing.assert_array_equal(decode(GREY.T.reshape(48, 64)), GREY.T.reshape(48, 64))
    assert decode_apart._idle[-1].process.pid == first
    assert decode().flags.writeable


@pytest.mark.parametrize(
    "name", ["MR_small_jp2klossless.dcm", "JPEG2000.dcm", "examples_jpeg2k.dcm", "MR_small_jpeg_ls_lossless.dcm"]
)
def test_frames_are_as_pydicom_decodes_them(name, monkeypatch):
    path = get_testdata_file(name)
    monkeypatch.setattr(dicom, "decode", None)  # it is not decoded in this process
    values = dicom._decode(path, dicom.read_header(path), 0, 1)
    np.testing.assert_array_equal(values, pixel_array(path, **dicom._ALL_BITS))


_ANY = ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F")
_TIFF = {"tiff_adobe_deflate": _ANY, "zstd": _ANY, "lzma": _ANY, "jpeg": ("L", "RGB")}


@pytest.mark.parametrize(("compression", "mode"), [(name, mode) for name, modes in _TIFF.items() for mode in modes])
def test_a_tiff_is_the_same_whatever_its_compression(tmp_path, mode, compression, monkeypatch):
    image = Image.fromarray(GREY.astype(np.uint16) * 99) if mode == "I;16" else Image.fromarray(GREY).convert(mode)
    for name, chosen in (("plain.tif", None), ("packed.tif", compression)):
        image.save(tmp_path / name, "TIFF", compression=chosen, tiffinfo={274: 6})  # turned by 90 degrees
    apart = []
    monkeypatch.setattr(
        "cvrnet.data.image.decode_apart", lambda *given: apart.append(1) or decode_apart.decode_apart(*given)
    )
    plain, packed = (read_image(tmp_path / name, "RGB").astype(int) for name in ("plain.tif", "packed.tif"))
    assert plain.shape == packed.shape == (64, 48, 3)
    assert np.abs(plain - packed).max() <= (8 if compression == "jpeg" else 0)
    assert len(apart) == (compression != "tiff_adobe_deflate")


def test_a_child_that_crashes_costs_one_picture(child):
    child('send(sys.stdout.buffer, ["ready"], b"")\nsys.stdin.buffer.readline()\nos.abort()\n')
    with pytest.raises(Refused, match=r"^the decoder crashed on it$"):
        decode()
    assert not decode_apart._idle
    child(f"def main(){MAIN}")
    np.testing.assert_array_equal(decode(), GREY)


@pytest.mark.parametrize(
    "answer", ['["|u1", [], "", False], bytes(10**8)', '[], b""', '["O", [1], "", False], bytes(8)']
)
def test_an_answer_that_no_decoder_gives_is_refused(child, answer):
    child(f'send(sys.stdout.buffer, ["ready"], b"")\nsys.stdin.buffer.readline()\nsend(sys.stdout.buffer, {answer})\n')
    with pytest.raises((Refused, ValueError)):
        decode()


def test_a_child_that_does_not_end_is_ended(child, monkeypatch):
    child(HANGS)
    monkeypatch.setattr(decode_apart, "_SECONDS", 0.3)
    with pytest.raises(Refused, match=r"^decoding it takes longer than 0 seconds$"):
        decode()
    assert not decode_apart._idle


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce limits of memory")
def test_a_decoder_may_take_only_the_memory_of_its_picture(child, monkeypatch):
    monkeypatch.setattr(decode_apart, "_MEMORY", 50_000_000)
    child(
        "decode = lambda data, options: np.zeros(10**int(data), np.uint8)[:9]\n"
        'send(sys.stdout.buffer, ["ready"], b"")\nserve(sys.stdin.buffer, sys.stdout.buffer)\n'
    )
    with pytest.raises(Refused, match=r"^decoding it takes more than 50 MB of memory$"):
        decode_apart.decode_apart(b"8", {}, 9)
    assert len(decode_apart.decode_apart(b"7", {}, 9)) == 9


@pytest.mark.parametrize("threads", [0, 2])
def test_ctrl_c_is_heard_while_a_child_decodes(child, threads):
    child(HANGS)
    started = threading.active_count()
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    begin = time.monotonic()

    def read() -> None:
        timer.start()
        if threads:
            with decoding_threads(threads) as pool:
                list(pool.map(lambda _: decode(), range(threads)))
        else:
            decode()

    with sigint(), pytest.raises(KeyboardInterrupt):
        read()
    assert time.monotonic() - begin < 8
    assert not decode_apart._idle
    timer.join()
    end = time.monotonic() + 5
    while threading.active_count() > started and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == started


def _read_in_child(queue) -> None:
    queue.put((len(decode_apart._idle), decode().tolist(), decode_apart._idle[-1].process.pid))


def test_a_program_that_contains_python_decodes_by_itself(child, monkeypatch):
    """It is no interpreter that could run another program (PyInstaller sets `sys.frozen`)."""
    child("raise SystemExit")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    np.testing.assert_array_equal(decode(), GREY)
    assert not decode_apart._idle


def test_a_forked_process_has_children_of_its_own():
    decode()
    mine = decode_apart._idle[-1].process.pid
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_read_in_child, args=(queue,), daemon=True)
    process.start()
    idle, pixels, other = queue.get(timeout=60)
    process.join()
    assert (idle, pixels) == (0, GREY.tolist())
    assert other != mine
    np.testing.assert_array_equal(decode(), GREY)
    assert decode_apart._idle[-1].process.pid == mine


def test_threads_may_decode_at_the_same_time():
    pictures = [np.roll(GREY, i, 1) for i in range(12)]
    with decoding_threads(3) as pool:
        for picture, pixels in zip(pictures, pool.map(decode, pictures), strict=True):
            np.testing.assert_array_equal(pixels, picture)


def test_a_program_without_a_main_guard_and_no_process_is_left(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.tif", compression="zstd")
    program = (
        "from cvrnet.data import decode_apart, read_image\n"
        f"print(read_image({str(tmp_path / 'a.tif')!r}).sum(), decode_apart._idle[0].process.pid)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    total, pid = map(int, ended.stdout.split())
    assert total == GREY.sum()
    assert ended.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
