"""Files appear whole or not at all."""

import csv
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from cvrnet.files import atomic_write, open_regular, write_csv, write_json, write_sheet, write_text


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own. A bare module stands for the package, whose ``__init__`` imports torch."""
    package = Path(__file__).resolve().parents[2] / "cvrnet"
    start = """
        import sys, types
        sys.modules["cvrnet"] = package = types.ModuleType("cvrnet")
        package.__path__ = [sys.argv[1]]
        from cvrnet.files import atomic_write, write_csv
        assert "torch" not in sys.modules
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(code), package, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_atomic_write_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "new" / "deep" / "a.txt"
    for text in ("one", "two"):
        with atomic_write(path) as temporary:
            assert temporary.parent == path.parent
            temporary.write_text(text)
        assert path.read_text() == text
    assert names(path.parent) == ["a.txt"]


def test_failure_in_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_killed_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"old": 1}')
    code = """
        import os, signal
        with atomic_write(sys.argv[2]) as temporary:
            with open(temporary, "w") as file:
                file.write('{"new": ')
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run(code, path).returncode == -signal.SIGKILL
    assert json.loads(path.read_text()) == {"old": 1}
    left = [name for name in names(tmp_path) if name != "a.json"]
    assert all(name.startswith(".") and name.endswith(".tmp") for name in left)


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("old", [None, "old"])
def test_no_room_leaves_no_half_file(tmp_path, old):
    path = tmp_path / "a.csv"
    if old is not None:
        path.write_text(old)
    code = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing beyond the limit fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_csv(sys.argv[2], ({"i": i} for i in range(1_000_000)))
        except OSError as error:
            print(type(error).__name__)
    """
    result = run(code, path)
    assert result.stdout == "OSError\n", result.stderr
    assert names(tmp_path) == ([] if old is None else ["a.csv"])
    assert old is None or path.read_text() == old


def test_a_reader_never_sees_a_part(tmp_path):
    path = tmp_path / "a.txt"
    texts = {letter * 200_000 for letter in "ab"}
    write_text(path, "a" * 200_000)
    done = threading.Event()

    def write() -> None:
        for letter in "ab" * 15:
            write_text(path, letter * 200_000)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_text())
    writer.join()
    assert seen <= texts


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_follow_the_umask(tmp_path):
    write_text(tmp_path / "a.txt", "")
    (tmp_path / "b.txt").write_text("")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")}
    assert len(modes) == 1


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_a_symbolic_link_stays_one(tmp_path):
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_write_text_is_utf8_with_unix_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "ä\nβ\n")
    assert (tmp_path / "a.txt").read_bytes() == "ä\nβ\n".encode()


def test_write_json_takes_numpy_and_paths(tmp_path):
    value = {"a": np.float32(0.5), "b": np.arange(3), "c": None, "ü": [np.int64(1), True], "d": Path("x/y")}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": 0.5, "b": [0, 1, 2], "c": None, "ü": [1, True], "d": "x/y"}
    assert "ü" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.array([1.0, np.nan]), np.float32("nan")])
def test_write_json_refuses_what_json_does_not_know(tmp_path, bad):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": bad})
    with pytest.raises(TypeError, match="set"):
        write_json(tmp_path / "a.json", {"x": {1}})
    assert (tmp_path / "a.json").read_text() == "{}"
    assert names(tmp_path) == ["a.json"]


def test_write_csv_round_trips(tmp_path):
    rows = [{"path": 'a,"b"\nc.png', "p": 0.1 + 0.2}, {"path": "ä.png", "p": None}, {"path": "c.png"}]
    write_csv(tmp_path / "a.csv", iter(rows))
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["path"] for row in read] == ['a,"b"\nc.png', "ä.png", "c.png"]
    assert float(read[0]["p"]) == 0.1 + 0.2
    assert [row["p"] for row in read[1:]] == ["", ""]


def test_write_csv_of_no_rows_keeps_the_header(tmp_path):
    write_csv(tmp_path / "a.csv", [], columns=["path", "label"])
    assert (tmp_path / "a.csv").read_text() == "path,label\n"


def test_write_csv_refuses_unknown_keys_and_keeps_the_old_file(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    with pytest.raises(ValueError, match="extra"):
        write_csv(tmp_path / "a.csv", [{"path": 1}, {"path": 2, "extra": 3}])
    assert (tmp_path / "a.csv").read_text() == "old"
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.skipif(os.name != "posix", reason="needs FIFOs")
def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"
    os.mkfifo(tmp_path / "fifo")  # nobody writes to it: open() would wait for ever
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket"))  # relative: a socket's path may have 100 bytes
    for path in (tmp_path / "fifo", tmp_path / "socket", "/dev/zero", "/dev/null"):
        with pytest.raises(OSError, match="expected a regular file"):
            open_regular(path)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def test_a_name_that_is_no_text_is_written(tmp_path):
    name = os.fsdecode(b"\xff.png")
    write_json(tmp_path / "a.json", {"path": name})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"path": name}
    for write in (write_csv, write_sheet):
        write(tmp_path / "a.csv", [{"path": name, "label": "é"}])
        assert (tmp_path / "a.csv").read_text("utf-8") == "path,label\n\\udcff.png,é\n"


def test_only_sheets_are_guarded(tmp_path):
    rows = [{"=path": "@a\x1b", "auc": -0.5}]
    write_csv(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_text() == "=path,auc\n@a\x1b,-0.5\n"
    write_sheet(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_text() == "'=path,auc\n'@a\\x1b,-0.5\n"
