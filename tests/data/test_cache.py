"""The cache: each image decoded once, never stale, never half written, whoever else is using it."""

import errno
import multiprocessing
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cvrnet.data import ImageCache, ImageError, Record, array_files, read_image, read_records
from cvrnet.data import cache as cache_module
from cvrnet.data.preprocessing import resize_image
from cvrnet.errors import UserError
from tests.support.privileges import permissions_hold

SIZE = (24, 20)


@pytest.fixture
def records(tmp_path) -> list[Record]:
    rng = np.random.default_rng(0)
    found = []
    for index in range(12):
        path = tmp_path / "images" / f"{index} é.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30 + index, 40), dtype=np.uint8)).save(path)
        found.append(Record(path, path.name, where=f"manifest.csv:{index + 2}"))
    return found


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The images that are decoded from now on."""
    paths: list[Path] = []

    def counting(path, mode, **settings):
        paths.append(Path(path))
        return read_image(path, mode, **settings)

    monkeypatch.setattr(cache_module, "read_image", counting)
    return paths


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_gives_the_resized_image_and_decodes_it_once(tmp_path, records, decoded, mode, interpolation):
    cache = ImageCache(SIZE, mode, interpolation, tmp_path / "cache")
    assert cache.build(records) == []
    assert sorted(decoded) == sorted(record.path for record in records)
    for record in records:
        pixels = cache.load(record.path)
        np.testing.assert_array_equal(pixels, resize_image(read_image(record.path, mode), SIZE, interpolation))
        assert pixels.dtype == np.uint8
        assert not pixels.flags.writeable
        np.testing.assert_array_equal(cache.load(str(record.path)), pixels)
    assert ImageCache(SIZE, mode, interpolation, tmp_path / "cache").build(records) == []
    assert len(decoded) == len(records)
    assert len(entries(tmp_path / "cache")) == len(records)


def test_loads_what_was_never_built(tmp_path, records, decoded):
    cache = ImageCache(SIZE, folder=tmp_path / "cache")
    first, second = cache.load(records[0].path), cache.load(records[0].path)
    np.testing.assert_array_equal(first, second)
    assert not first.flags.writeable
    assert len(decoded) == 1


def test_settings_do_not_mix(tmp_path, records):
    settings = [(SIZE, "L", "nearest"), (SIZE[::-1], "L", "nearest"), (SIZE, "RGB", "nearest"), (SIZE, "L", "bicubic")]
    caches = [ImageCache(*setting, tmp_path / "cache") for setting in settings]
    for cache in caches:
        cache.build(records)
    for cache, setting in zip(caches, settings, strict=True):
        expected = resize_image(read_image(records[3].path, setting[1]), setting[0], setting[2])
        np.testing.assert_array_equal(cache.load(records[3].path), expected)
    assert len(entries(tmp_path / "cache")) == 4 * len(records)


@pytest.mark.parametrize("change", ["content", "time", "size"])
def test_a_changed_image_replaces_its_entry(tmp_path, records, decoded, change):
    cache = ImageCache(SIZE, folder=tmp_path / "cache")
    cache.build(records)
    path = records[5].path
    was = path.stat()
    if change == "time":
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns + 1))
    else:
        Image.new("L", (50, 50), 9).save(path)
        if change == "size":  # a tool that keeps the modification time
            os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    decoded.clear()
    assert cache.build(records) == []
    assert decoded == [path]
    np.testing.assert_array_equal(cache.load(path), resize_image(read_image(path), SIZE))
    assert decoded == [path]
    assert len(entries(tmp_path / "cache")) == len(records)


@pytest.mark.parametrize("damage", [b"", b"x", b"cvrnet00" + bytes(600), None, "longer", "shorter", "magic"])
def test_a_damaged_entry_is_rebuilt(tmp_path, records, decoded, damage):
    cache = ImageCache(SIZE, folder=tmp_path / "cache")
    expected = np.array(cache.load(records[0].path))
    (entry,) = entries(tmp_path / "cache")
    content = entry.read_bytes()
    if damage is None:
        entry.unlink()
    else:
        damages = {"longer": content + b"x", "shorter": content[:-1], "magic": b"X" + content[1:]}
        entry.write_bytes(damages[damage] if isinstance(damage, str) else damage)
    np.testing.assert_array_equal(cache.load(records[0].path), expected)
    assert len(decoded) == 2
    assert entries(tmp_path / "cache") == [entry]
    assert entry.read_bytes() == content


def test_a_new_format_version_replaces_the_entries(tmp_path, records, decoded, monkeypatch):
    ImageCache(SIZE, folder=tmp_path / "cache").build(records)
    monkeypatch.setattr(array_files, "FORMAT_VERSION", array_files.FORMAT_VERSION + 1)
    ImageCache(SIZE, folder=tmp_path / "cache").build(records)
    assert len(decoded) == 2 * len(records)
    assert len(entries(tmp_path / "cache")) == len(records)


def test_bad_images_are_told_one_line_each_in_order(tmp_path, records):
    records[2].path.write_bytes(b"")
    records[7].path.write_bytes(b"text")
    records[9].path.unlink()
    seen = []
    cache = ImageCache(SIZE, folder=tmp_path / "cache")
    problems = cache.build(records, workers=3, progress=lambda done, total: seen.append((done, total)))
    assert problems == [
        "manifest.csv:4: 2 é.png: the file is empty",
        "manifest.csv:9: 7 é.png: not a PNG, JPEG, TIFF, WebP, BMP or DICOM image",
        "manifest.csv:11: 9 é.png: No such file or directory",
    ]
    assert seen == [(done, 12) for done in range(1, 13)]
    assert len(entries(tmp_path / "cache")) == 9
    for index in (2, 7, 9):
        with pytest.raises(ImageError, match="é"):
            cache.load(records[index].path)
    seen.clear()
    assert cache.build(records[:2], progress=lambda done, total: seen.append((done, total))) == []
    assert seen == []


def test_an_image_that_vanished_is_not_read_from_the_cache(tmp_path, records):
    cache = ImageCache(SIZE, folder=tmp_path / "cache")
    cache.build(records)
    records[0].path.unlink()
    with pytest.raises(ImageError, match="No such file"):
        cache.load(records[0].path)


def test_a_full_disk_leaves_nothing_behind(tmp_path, records, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = ImageCache(SIZE, folder=tmp_path / "cache")
    monkeypatch.setattr(cache_module.os, "replace", full)
    for act in (lambda: cache.build(records), lambda: cache.load(records[0].path)):
        with pytest.raises(UserError, match="the image cache cannot be written: No space left on device") as error:
            act()
        assert "\n" not in str(error.value)
        assert entries(tmp_path / "cache") == []


def test_a_disk_that_fills_up_while_an_entry_is_written(tmp_path, records):
    resource = pytest.importorskip("resource", reason="the limit of a file's size stands for a full disk")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match="the image cache cannot be written: File too large"):
            ImageCache((200, 200), folder=tmp_path / "cache").load(records[0].path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert entries(tmp_path / "cache") == []


def test_a_cache_that_may_not_be_read(tmp_path, records):
    cache = ImageCache(SIZE, folder=tmp_path / "cache")
    cache.build(records)
    entries(tmp_path / "cache")[0].chmod(0)
    with permissions_hold(), pytest.raises(UserError, match="the image cache cannot be read: Permission denied"):
        cache.build(records)


def test_a_folder_that_cannot_be_made(tmp_path, records):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="the image cache cannot be written"):
        ImageCache(SIZE, folder=tmp_path / "file" / "cache").build(records)


def _build_often(folder: Path, records: list[Record], barrier) -> None:
    cache = ImageCache(SIZE, folder=folder)
    barrier.wait()
    for _ in range(10):
        problems = cache.build(records, workers=2)
        wrong = [r for r in records if not np.array_equal(cache.load(r.path), resize_image(read_image(r.path), SIZE))]
        if problems or wrong:
            raise SystemExit(1)
        for path in entries(folder)[::2]:
            if path.suffix != ".tmp":  # whole entries only, which the other process may be reading
                path.unlink(missing_ok=True)


@pytest.mark.skipif(sys.platform != "linux", reason="forks, to start quickly")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_may_race(tmp_path, records):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=_build_often, args=(tmp_path / "cache", records, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    ImageCache(SIZE, folder=tmp_path / "cache").build(records)
    assert len(entries(tmp_path / "cache")) == len(records)


def test_goes_to_other_processes(tmp_path, records):
    cache = ImageCache(SIZE, "RGB", folder=tmp_path / "cache")
    again = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(again.load(records[0].path), cache.load(records[0].path))
    assert len(entries(tmp_path / "cache")) == 1


def test_a_relative_path_is_the_same_image(tmp_path, records, monkeypatch, decoded):
    cache = ImageCache(SIZE, folder=tmp_path / "cache")
    cache.load(records[0].path)
    monkeypatch.chdir(records[0].path.parent)
    cache.load(records[0].path.name)
    assert len(decoded) == 1


def test_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CVRNET_CACHE", str(tmp_path / "mine"))
    assert ImageCache(SIZE).folder == tmp_path / "mine"
    monkeypatch.delenv("CVRNET_CACHE")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert ImageCache(SIZE).folder == tmp_path / "xdg" / "cvrnet" / "images"
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert ImageCache(SIZE).folder.is_relative_to(Path.home())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((8,),), "image size"),
        (((0, 8),), "image size"),
        ((SIZE, "P"), "image mode"),
        ((SIZE, "L", "cubic"), "interpol"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(UserError, match=f"^{message}"):
        ImageCache(*arguments)


@pytest.mark.realdata
def test_odd_files_are_cached_or_told(tmp_path, odd):
    names = sorted(path.name for path in odd.iterdir() if path.suffix not in (".md", ".dcm"))
    cache = ImageCache((64, 64), "RGB", folder=tmp_path / "cache")
    problems = cache.build([Record(odd / name, name) for name in names])
    assert [problem.partition(": ")[0] for problem in problems] == [name for name in names if name.startswith("bad-")]
    assert len(entries(tmp_path / "cache")) == len(names) - 4


@pytest.mark.realdata
def test_real_images_come_out_of_the_cache_as_they_are(tmp_path, cxr):
    records = read_records(cxr)[::40]
    cache = ImageCache((224, 224), folder=tmp_path / "cache")
    assert cache.build(records) == []
    for record in records:
        np.testing.assert_array_equal(cache.load(record.path), resize_image(read_image(record.path), (224, 224)))


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_only_its_owner_can_read_it(tmp_path, records, umask):
    """The folders are as the XDG Base Directory Specification has them: a missing one is made with 0700."""
    folder = tmp_path / "home" / ".cache" / "images"
    before = os.umask(umask)
    try:
        assert ImageCache(SIZE, folder=folder).build(records) == []
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in entries(folder)} == {0o600}
    inner = [path for path in folder.rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in (*inner, folder, folder.parent, folder.parent.parent)} == {0o700}


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_chosen_folder_stays_as_it_is_and_looser_ones_inside_are_closed(tmp_path, records):
    folder = tmp_path / "chosen"
    cache = ImageCache(SIZE, folder=folder)
    cache.build(records)
    folder.chmod(0o755)
    for entry in entries(folder):
        entry.parent.chmod(0o755)
        entry.write_bytes(b"of an earlier version")
    cache.build(records)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {entry.parent.stat().st_mode & 0o777 for entry in entries(folder)} == {0o700}
    assert {entry.stat().st_mode & 0o777 for entry in entries(folder)} == {0o600}
