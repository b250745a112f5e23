"""Several processes share the files of a prediction: one ordered result, as one process writes it."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cvrnet.errors import UserError
from cvrnet.inference import Prediction
from tests.support.pairs import PLACE, run_pair

pytest.importorskip("accelerate")
from cvrnet.inference import distributed as sharing
from cvrnet.inference.distributed import SharedPrediction


@pytest.mark.slow
def test_two_processes_write_one_ordered_result(run, phantoms, tmp_path, cli):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    paths = sorted(phantoms.parent.glob("images/*/*.png"))[:21]
    paths.insert(5, bad)
    options = ["--device", "cpu", "--amp", "fp32", "--batch-size", "1", "--heads", "--uncertainty"]
    arguments = ["predict", str(run), *map(str, paths), *options]
    # Only the main process tells, as one process would, that an image could not be read.
    _, err = run_pair(tmp_path / "log", [*arguments, "-o", tmp_path / "two.csv"], expected=(1, 0))
    assert err.count("bad.png: the file is empty") == 1
    assert "Error: 1 of 22 images could not be read" in err
    status, _, _ = cli(*arguments, "-o", tmp_path / "one.csv")
    assert status == 1
    one, two = (numbers(tmp_path / name) for name in ("one.csv", "two.csv"))
    assert [row[0] for row in two] == [str(p) for p in paths]
    for ours, alone in zip(two, one, strict=True):
        assert ours[1] == alone[1]
        assert ours[2:] == pytest.approx(alone[2:], abs=1e-6, nan_ok=True)


def test_the_launcher_tells_its_processes_what_a_pair_is_told(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os\n"
        f"with open(os.path.join({str(tmp_path)!r}, os.environ['RANK']), 'w') as file:\n"
        "    json.dump(dict(os.environ), file)\n"
    )
    launch = "-m accelerate.commands.launch --multi_gpu --main_process_port 0 --num_processes 2"
    subprocess.run([sys.executable, *launch.split(), str(program)], check=True, capture_output=True, timeout=500)
    for rank in ("0", "1"):
        told = json.loads((tmp_path / rank).read_text())
        expected = PLACE | {"RANK": rank, "LOCAL_RANK": rank}
        assert expected == {name: told[name] for name in expected}
        assert int(told["MASTER_PORT"]) > 0


def numbers(path):
    """Rows of path, label and the numbers."""
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return [[*row[:2], *(float(cell or "nan") for cell in row[2:-1])] for row in rows]


class Group:
    """As many threads as processes, which exchange lists as `accelerate` does."""

    def __init__(self, world):
        self.world, self.parts = world, [None] * world
        self.barrier = threading.Barrier(world, timeout=30)
        self.most = 0

    def gather(self, rank, part):
        self.parts[rank] = part
        self.barrier.wait()
        every = [item for p in self.parts for item in p]
        self.most = max(self.most, sum(map(len, every)))
        self.barrier.wait()
        return every


class Echo:
    """A predictor that answers with the file's name."""

    def stream(self, paths, *, batch_size):
        for path in paths:
            yield Prediction(path, path.name, None)


def together(monkeypatch, world, listings, batch_size=1):
    """What the main one of several processes yields, and the most answers that were under way at once."""
    group, result, place = Group(world), {}, threading.local()
    monkeypatch.setattr(sharing, "gather_object", lambda part: group.gather(place.rank, part))

    def work(rank):
        place.rank = rank
        shared = SharedPrediction.__new__(SharedPrediction)
        shared._state = type("State", (), {"process_index": rank, "num_processes": world})()
        shared.is_main = rank == 0
        try:
            result[rank] = [p.label for p in shared.stream(Echo(), listings[rank], batch_size=batch_size)]
        except UserError as error:
            result[rank] = error
            group.barrier.abort()
        except threading.BrokenBarrierError:
            result[rank] = []

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return result, group.most


@pytest.mark.parametrize("count", [0, 1, 2, 3, 23, 24, 25, 100])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_order_is_kept_and_memory_bounded(monkeypatch, world, count):
    files = [Path(f"{i}.png") for i in range(count)]
    result, most = together(monkeypatch, world, [files] * world)
    assert result[0] == [f.name for f in files]
    assert all(result[rank] == [] for rank in range(1, world))
    assert most <= world * sharing.PORTION


def test_processes_that_see_other_files_are_told(monkeypatch):
    files = [Path(f"{i}.png") for i in range(10)]
    result, _ = together(monkeypatch, 2, [files, [Path("new.png"), *files]])
    assert isinstance(result[0], UserError)
    assert "the processes have different files" in str(result[0])


def test_a_launch_of_too_few_processes_is_told(run, monkeypatch, cli):
    """Without several GPUs ``accelerate launch --num_processes 2`` starts one process and says nothing."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    status, _, err = cli("predict", run, "chest.png")
    assert (status, "add --multi_gpu" in err) == (1, True)
