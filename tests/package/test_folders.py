"""Folders are replaced whole, by one process at a time, whatever interrupts it."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import cvrnet
from cvrnet.errors import UserError
from cvrnet.files import write_text
from cvrnet.folders import files_aside, find_folder, lock_folder, made_aside, new_folder, recover
from tests.support.kills import FAILED, FINISHED, SURVIVED, stop_at

posix = pytest.mark.skipif(os.name != "posix", reason="forks, and locks of POSIX")
OLD = {"a.txt": "old", "sub/b.txt": "old"}
NEW = {"a.txt": "new", "c.txt": "new"}


def write(folder, files):
    for name, text in files.items():
        write_text(folder / name, text)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def hidden(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def replace(folder):
    """What a job does: lock, complete what was interrupted, start anew, put the new folder in place."""
    with lock_folder(folder):
        recover(folder)
        shutil.rmtree(new_folder(folder), ignore_errors=True)
        with made_aside(folder) as new:
            write(new, NEW)


def stop_everywhere(parent, old, full):
    """Stop `replace` at each of its changes in turn; the old or the new folder is whole each time."""
    statuses = []
    while not statuses or statuses[-1] != FINISHED:
        folder = parent / str(len(statuses)) / "run"
        write(folder, old)
        folder.parent.mkdir(exist_ok=True, parents=True)
        statuses.append(stop_at(len(statuses), lambda folder=folder: replace(folder), full=full))
        if full:
            assert hidden(folder.parent) in (
                [],
                [".run.cvrnet-old"],
                [".run.cvrnet-lock"],
            )  # the only thing that could not be removed
        else:
            found = contents(find_folder(folder)) if find_folder(folder).exists() else {}
            assert found in (old, NEW)
        found = contents(folder) if folder.exists() else {}
        assert found in (old, NEW)
        replace(folder)
        assert contents(folder) == NEW
        assert hidden(folder.parent) == []
    assert set(statuses[:-1]) <= ({FAILED, SURVIVED} if full else {-signal.SIGKILL})
    assert len(statuses) > 15


def stop_files_everywhere(parent):
    """After a kill between two renames, each file is the old or the new one, and the same job replaces all."""

    def job(folder):
        earlier = (folder / "a.txt").exists()
        with files_aside(folder, lambda name: earlier, "a.txt") as aside:
            write(aside, NEW)

    statuses = []
    while not statuses or statuses[-1] != FINISHED:
        folder = parent / str(len(statuses))
        write(folder, {"a.txt": "old", "mine.txt": "mine"} if len(statuses) % 2 else {"mine.txt": "mine"})
        statuses.append(stop_at(len(statuses), lambda folder=folder: job(folder)))
        assert {contents(folder).get(name, "old") for name in NEW} <= {"old", "new"}
        job(folder)
        assert {k: v for k, v in contents(folder).items() if not k.startswith(".saving-")} == {
            "mine.txt": "mine",
            **NEW,
        }
    assert len(statuses) > 10


@posix
def test_at_every_point_of_interruption_each_folder_or_file_is_the_old_or_the_new_one(tmp_path):
    """In a new process: forks of a test process, which holds many libraries and threads, have ended with it."""
    code = """
        import sys
        from pathlib import Path
        from tests.package.test_folders import OLD, stop_everywhere, stop_files_everywhere
        cases = (("killed", OLD, False), ("full disk", OLD, True), ("killed, nothing was there", {}, False))
        for name, old, full in cases:
            stop_everywhere(Path(sys.argv[1]) / name, old, full)
            print(name)
        stop_files_everywhere(Path(sys.argv[1]) / "files")
        print("files")
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        ["killed", "full disk", "killed, nothing was there", "files"],
    ), done.stderr


@posix
def test_a_link_to_a_folder_stays_and_its_target_is_replaced(tmp_path):
    write(tmp_path / "disk/run", OLD)
    (tmp_path / "run").symlink_to(tmp_path / "disk/run")
    replace(find_folder(tmp_path / "run").resolve())
    assert (tmp_path / "run").is_symlink()
    assert contents(tmp_path / "run") == contents(tmp_path / "disk/run") == NEW


def test_a_failure_leaves_the_old_folder_and_what_can_be_continued(tmp_path):
    folder = tmp_path / "run"
    write(folder, OLD)

    def fail(keep):
        with made_aside(folder, lambda new: keep) as new:
            write(new, NEW)
            raise KeyboardInterrupt

    for keep in (True, False):
        with pytest.raises(KeyboardInterrupt):
            fail(keep)
        assert contents(folder) == OLD
        assert new_folder(folder).exists() == keep


HOLD = f"""
import sys, time, types
from pathlib import Path
sys.modules["cvrnet"] = package = types.ModuleType("cvrnet")  # without torch, which takes seconds
package.__path__ = {cvrnet.__path__!r}
from cvrnet.folders import lock_folder
with lock_folder(Path(sys.argv[1]), *sys.argv[3:], shared=sys.argv[2] == "shared"):
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(folder, how="alone", *part):
    """A process that holds the lock of a folder."""
    command = [sys.executable, "-c", HOLD, str(folder), how, *part]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    return process


@posix
def test_two_processes_cannot_lock_one_folder_and_a_killed_one_locks_nothing(tmp_path):
    folder = tmp_path / "deep" / "run"
    process = hold(folder)
    try:
        holder = f"process {process.pid} on {os.uname().nodename}"
        with pytest.raises(UserError, match=f"run is in use by {holder}; wait until it has ended") as error:
            replace(folder)
        assert "\n" not in str(error.value)
        with lock_folder(tmp_path / "deep" / "other"):
            pass
    finally:
        process.kill()
        process.wait()
    assert hidden(folder.parent) == [".run.cvrnet-lock"]  # stale
    replace(folder)
    assert hidden(folder.parent) == []


@posix
def test_processes_that_write_different_parts_share_a_folder(tmp_path):
    processes = [hold(tmp_path / "run", "shared"), hold(tmp_path / "run", "shared")]
    try:
        with pytest.raises(UserError, match="is in use by process"):
            replace(tmp_path / "run")
        with lock_folder(tmp_path / "run", shared=True), lock_folder(tmp_path / "run", "fold-1"):
            pass
    finally:
        for process in processes:
            process.kill()
            process.wait()
    replace(tmp_path / "run")


@posix
def test_workers_that_outlive_their_process_hold_no_lock(tmp_path):
    """Data loaders fork; after kill -9 of the main process they live on for seconds."""
    code = HOLD.replace("time.sleep(60)", "import os; os.fork() or time.sleep(60); time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run"), "alone"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "locked\n"
        time.sleep(0.2)
        process.kill()
        process.wait()
        replace(tmp_path / "run")
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_lock_and_its_parents_vanish(tmp_path):
    with lock_folder(tmp_path / "a/b/run"):
        assert (tmp_path / "a/b/.run.cvrnet-lock").read_text().startswith(f"process {os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def test_files_beside_others_replace_only_an_earlier_result(tmp_path):
    write(tmp_path / "out", {"mine.txt": "mine", "a.txt": "old"})

    def add(may_replace):
        with files_aside(tmp_path / "out", may_replace, "a.txt") as aside:
            write(aside, NEW)

    with pytest.raises(UserError, match=r"a\.txt exists and is not part of an earlier result"):
        add(lambda name: False)
    assert contents(tmp_path / "out") == {"mine.txt": "mine", "a.txt": "old"}
    add(lambda name: name == "a.txt")
    assert contents(tmp_path / "out") == {"mine.txt": "mine", **NEW}
    assert hidden(tmp_path / "out") == hidden(tmp_path) == []
