"""The command line where it may not read or write, where the disk is full, and when it is stopped."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.support.disks import namespaces
from tests.support.hub_runs import make_folds
from tests.support.privileges import permissions_hold

TRAINING = ["--encoders", "test_resnet", "--img-size", 64, "--no-pretrained", "--epochs", 1, "--no-audit"]


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folds(tmp_path_factory.mktemp("folds") / "run")


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refusal(cli, *arguments: object) -> str:
    """The one line on stderr of a command that fails."""
    status, _, err = cli(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert status == 1, err
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize(
    "command",
    ["train", "crossval", "predict", "evaluate", "export", "explain", "audit", "phantoms", "soup", "pull"],
)
def test_a_folder_that_may_not_be_written(cli, command, run, folds, phantoms, tmp_path, request):
    """What is in it stays as it was, and the message names the place."""
    place = tmp_path / "theirs"
    place.mkdir()
    (place / "old.txt").write_text("old")
    out = place / "new"
    if command == "pull":
        import cvrnet

        request.getfixturevalue("hub")
        cvrnet.push_folds(folds, "ada/net")
    arguments = {
        "train": [phantoms, "-o", out, *TRAINING],
        "crossval": [phantoms, "-o", out, "--folds", 3, *TRAINING],
        "predict": [run, phantoms.parent / "images", "-o", place / "p.csv"],
        "evaluate": [run, phantoms, "-o", out, "--no-audit"],
        "export": [folds / "fold-1", "-o", place / "m.onnx", "--check-images", phantoms],
        "explain": [run, next(phantoms.parent.glob("images/**/*.png")), "-o", out],
        "audit": [phantoms, "-o", out],
        "phantoms": ["-o", out, "-n", 12, "--size", 64],
        "soup": [folds, phantoms, "-o", out],
        "pull": ["ada/net", "-o", out],
    }[command]
    before = contents(place)
    place.chmod(0o555)
    try:
        with permissions_hold():
            line = refusal(cli, command, *arguments)
    finally:
        place.chmod(0o755)
    assert "Permission denied" in line
    assert str(place) in line
    assert contents(place) == before


@pytest.mark.parametrize("name", ["split.csv", "config.json", "model.safetensors"])
def test_a_file_of_the_run_that_may_not_be_read(cli, name, run, phantoms, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / name).chmod(0)
    with permissions_hold():
        line = refusal(cli, "evaluate", tmp_path / "run", phantoms, "-o", tmp_path / "out", "--no-audit")
    assert line == (f"Error: {tmp_path / 'run' / name}: Permission denied")
    assert not (tmp_path / "out").exists()


def test_data_that_may_not_be_read(cli, run, phantoms, tmp_path):
    shutil.copytree(phantoms.parent, tmp_path / "data")
    image = next((tmp_path / "data").glob("images/**/*.png"))
    image.chmod(0)
    with permissions_hold():
        status, out, err = cli("predict", run, tmp_path / "data/images", "--format", "csv")
        assert status == 1
        assert f"Error: {image}: Permission denied" in err.splitlines()
        assert len(out.splitlines()) == 37
        (tmp_path / "data/manifest.csv").chmod(0)
        assert "Permission denied" in refusal(cli, "audit", tmp_path / "data")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\3\4 the start of one"])
def test_a_damaged_training_state_is_named(content, tmp_path):
    """And one with other contents than a training's."""
    import torch

    from cvrnet.errors import UserError
    from cvrnet.training.state import restore_state

    path = tmp_path / "training-state.pt"
    path.write_bytes(content)
    network = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"training-state\.pt is damaged; delete it to train from the start"):
        restore_state(path, {"model": network})
    torch.save({"model": {}}, path)
    with pytest.raises(UserError, match="is damaged"):
        restore_state(path, {"model": network})


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What short campaigns count."""
    from tests.support.campaigns import run

    return run(tmp_path_factory.mktemp("campaigns"), mounts=namespaces())


linux = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported everything")


@linux
@pytest.mark.slow
def test_damaged_files_are_read_or_refused_and_interruptions_leave_nothing_half_written(campaigns):
    """Damaged images, bombs, manifests and files of a run: never a traceback, a hang, or more than 1 GiB.

    Ctrl-C: never a file that is there in part. (test_training has kill -9.)
    """
    kinds = {"images", "memory bombs", "manifests", "config.json", "history.csv", "Ctrl-C, train"}
    assert kinds <= {row["kind"] for row in campaigns}
    assert sum(row["refused"] for row in campaigns if row["kind"] == "images") > 15
    assert sum(row.get("stopped", 0) for row in campaigns) >= 1


@linux
def test_ctrl_c_while_modules_are_imported():
    """Ctrl-C waits for the end of the import, here only of torch's, and then ends what waits for something else."""
    from tests.support.interrupts import while_importing

    code = """
import sys, time, cvrnet_cli, cvrnet_cli.commands

@cvrnet_cli.commands.cli.command()
def work():
    import cvrnet, torch
    time.sleep(60)

sys.argv = ["cvrnet", "work"]
cvrnet_cli.main()
"""
    started = time.monotonic()
    status, err = while_importing(0.7, sys.executable, "-c", code)
    assert (status, err.lstrip()) == (130, "Error: interrupted\n")
    assert time.monotonic() - started < 50


@linux
@pytest.mark.slow
def test_full_disks_leave_nothing_half_written(campaigns):
    if not namespaces():
        pytest.skip("no disk of our own can be mounted here: unshare -rm is not allowed")
    assert {row["kind"] for row in campaigns if row.get("full")} == {"full disk, train", "full disk, predict"}
