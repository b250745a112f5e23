"""Nothing is lost: --overwrite replaces a result only by a complete one, and only what this library made."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cvrnet.errors import UserError
from cvrnet.folders import lock_folder
from cvrnet.runs.folder import check_folder
from cvrnet.training import Progress, TrainConfig
from cvrnet.workflows import Callbacks, cross_validate, train
from tests.conftest import PLAIN, TINY

CONFIG = TrainConfig(**{**TINY, "model": "test_efficientnet", "encoders": (), "img_size": 32, "epochs": 1})
OLD = Path(__file__).parents[1] / "fixtures" / "runs-0.1"
SMALL = ["--no-pretrained", "--img-size", 64, "--epochs", 1, "--no-audit", "--no-maps"]


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def finished(folder, kind):
    """What tells a finished job of some kind: run.json with the version, and a result."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"kind": kind, "versions": {"cvrnet": "0.1.0"}, "models": []}))
    (folder / "metrics.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weeks of work")
    return folder


FAILING = {
    "no such encoder": ("train", ["--encoders", "nosuch,resnet18", *SMALL], "nosuch"),
    "no such model": ("train", ["--model", "nosuch", *SMALL], "nosuch"),
    "no such argument": ("train", ["--model", "test_resnet", "--model-kwargs", "nosuch=1", *SMALL], "nosuch"),
    "no such optimizer": ("train", ["--model", "test_resnet", "--optimizer", "nosuch", *SMALL], "optimizer='nosuch'"),
    "no such source": ("train", ["--test-source", "mars", *SMALL], "mars"),
    "crossval": ("crossval", ["--folds", 3, "--encoders", "nosuch,resnet18", *SMALL], "nosuch"),
    "leave one out": ("crossval", ["--leave-one-source-out", "--folds", 3, "--model", "nosuch", *SMALL], "nosuch"),
    "benchmark": ("benchmark", ["--folds", 3, "--models", "test_resnet,nosuch", *SMALL], "nosuch"),
    "optimizer of a benchmark": (
        "benchmark",
        ["--folds", 3, "--models", "test_resnet", "--optimizer", "nosuch", *SMALL],
        "optimizer='nosuch'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILING)
def test_a_job_that_cannot_start_leaves_the_old_one(name, cli, phantoms, tmp_path):
    command, options, reason = FAILING[name]
    kind = "leave-one-source-out" if "leave" in name else command
    folder = finished(tmp_path / "run", kind)
    before = contents(folder)
    status, _, err = cli(command, phantoms, "-o", folder, "--overwrite", *options)
    errors = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert (status, len(errors)) == (1, 1), err
    assert reason in errors[0]
    assert "Traceback" not in err
    assert contents(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


OTHERS = {
    "evaluate": lambda data, out: ["evaluate", data.parent / "nosuch", data, "-o", out],
    "evaluate nothing": lambda data, out: ["evaluate", OLD / "one", data.parent / "nosuch", "-o", out],
    "soup": lambda data, out: ["soup", OLD / "three", data.parent / "nosuch", "-o", out],
    "convert-keras": lambda data, out: ["convert-keras", data, "-o", out],
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_command_that_fails_leaves_the_old_result(name, cli, phantoms, tmp_path):
    folder = finished(tmp_path / "out", name.partition(" ")[0])
    before = contents(folder)
    status, _, err = cli(*OTHERS[name](phantoms, folder), "--overwrite")
    assert (status, err.count("Error: ")) == (1, 1), err
    assert contents(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_replacement_is_resumed_and_the_old_run_stays_until_then(run, phantoms, tmp_path):
    """Through a symbolic link: the link stays, its target is replaced."""
    config = replace(CONFIG, epochs=2)
    target = Path(shutil.copytree(run, tmp_path / "disk/old"))
    (tmp_path / "run").symlink_to(target)
    before, said = contents(target), []

    def stop(row):
        raise KeyboardInterrupt

    interrupting = Callbacks(say=said.append, training=lambda name, fold: Progress(end=stop))
    with pytest.raises(KeyboardInterrupt):
        train(phantoms, tmp_path / "run", config, overwrite=True, callbacks=interrupting, **PLAIN)
    new = tmp_path / "disk/.old.cvrnet-new"
    assert str(new) in said[0]
    assert "--resume" in said[0]
    assert (new / "training-state.pt").is_file()
    assert contents(target) == before
    unfinished = contents(new)
    (target / "notes.txt").write_text("written meanwhile")
    with pytest.raises(UserError, match=r"holds notes\.txt; --overwrite would remove this"):
        train(phantoms, tmp_path / "run", config, resume=True, **PLAIN)
    (target / "notes.txt").unlink()

    with pytest.raises(UserError, match="exists; --resume continues it, --overwrite replaces it"):
        train(phantoms, tmp_path / "run", config, **PLAIN)
    with pytest.raises(UserError, match="unknown model 'cvrnot'"):
        train(phantoms, tmp_path / "run", replace(config, model="cvrnot"), overwrite=True, **PLAIN)
    with pytest.raises(UserError, match=r"\.old\.cvrnet-new holds another run \(lr is now 0.5, was 0.001\)"):
        train(phantoms, tmp_path / "run", replace(config, lr=0.5), resume=True, **PLAIN)
    assert (contents(target), contents(new)) == (before, unfinished)

    trained = []
    going_on = Callbacks(training=lambda name, fold: Progress(end=trained.append))
    train(phantoms, tmp_path / "run", config, resume=True, overwrite=True, callbacks=going_on, **PLAIN)
    assert [row["epoch"] for row in trained] == [2]
    assert (tmp_path / "run").is_symlink()
    assert sorted(p.name for p in target.parent.iterdir()) == ["old"]
    train(phantoms, tmp_path / "whole", config, **PLAIN)
    weights = "model.safetensors"
    assert (target / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert contents(target).keys() == contents(tmp_path / "whole").keys()


def test_an_unfinished_run_is_not_forgotten(phantoms, tmp_path):
    finished(tmp_path / ".run.cvrnet-new", "train")
    with pytest.raises(
        UserError, match=r"\.run\.cvrnet-new is an unfinished run; --resume continues it, --overwrite replaces"
    ):
        train(phantoms, tmp_path / "run", CONFIG, **PLAIN)
    train(phantoms, tmp_path / "run", CONFIG, overwrite=True, **PLAIN)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("old", ["one", "three"])
def test_runs_of_version_0_1_are_ours(old):
    kind = json.loads((OLD / old / "run.json").read_text())["kind"]
    assert check_folder(OLD / old, kind, overwrite=True)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"notes.txt": "mine"}, "exists and is not a run"),
        ({"run.json": '{"kind": "train"}'}, "is not a run that cvrnet made"),
        ({"run.json": '{"kind": "train", "versions": {"cvrnet": "1"}}', "thesis.tex": "mine"}, "holds thesis.tex"),
        ({"run.json": '{"kind": "train", "versions": {"cvrnet": "1"}}', "data/a.png": "mine"}, "holds data"),
        (
            {
                "run.json": '{"kind": "train", "versions": {"cvrnet": "1"}}',
                "evaluation/run.json": '{"kind": "evaluate", "versions": {"cvrnet": "1"}}',
            },
            "holds evaluation",
        ),
        ({"run.json": '{"kind": "crossval", "versions": {"cvrnet": "1"}}'}, "holds a run of another kind"),
        ({"run.json": "[]"}, "expected a file that cvrnet wrote"),
        ({"run.json": "{"}, "cannot be read"),
    ],
)
def test_only_what_this_library_made_is_replaced(files, reason, cli, phantoms, tmp_path):
    for name, text in files.items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(text)
    before = contents(tmp_path)
    status, _, err = cli("train", phantoms, "-o", tmp_path / "run", "--overwrite", *SMALL)
    assert (status, err.count("\n")) == (1, 1), err
    assert reason in err
    assert contents(tmp_path) == before


def test_what_came_into_the_folder_during_a_long_training_is_not_removed(run, phantoms, tmp_path):
    old = shutil.copytree(run, tmp_path / "run")

    def write_notes(row):
        (old / "notes.txt").write_text("mine")

    callbacks = Callbacks(training=lambda name, fold: Progress(end=write_notes))
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        train(phantoms, old, CONFIG, overwrite=True, callbacks=callbacks, **PLAIN)
    assert (old / "notes.txt").read_text() == "mine"
    (old / "notes.txt").unlink()
    before = (old / "run.json").read_bytes()
    train(phantoms, old, CONFIG, resume=True, **PLAIN)
    assert (old / "run.json").read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_sweep_with_its_runs_is_ours(tmp_path):
    sweep = finished(tmp_path / "table", "benchmark")
    finished(sweep / "test_resnet", "crossval")
    assert check_folder(sweep, "benchmark", overwrite=True)


def test_a_mount_point_is_refused_before_the_work(run, phantoms, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) == str(tmp_path / "run"))
    with pytest.raises(UserError, match="run is a mount point"):
        train(phantoms, tmp_path / "run", CONFIG, overwrite=True, **PLAIN)


def test_a_folder_that_another_process_writes_is_refused_in_one_line(cli, run, phantoms, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    before = contents(tmp_path / "run")
    for flags in (["--resume"], ["--overwrite"]):
        with lock_folder(tmp_path / "run"):
            status, _, err = cli("train", phantoms, "-o", tmp_path / "run", *flags, *SMALL)
        assert (status, err.count("\n")) == (1, 1), err
        assert "run is in use by process" in err
    assert contents(tmp_path / "run") == before


def test_folds_are_trained_side_by_side_in_one_folder(phantoms, tmp_path, cli):
    """As on several GPUs: another process trains fold 2 at the same time, and none may join the folds meanwhile."""
    run = tmp_path / "run"
    with lock_folder(run, shared=True), lock_folder(run, "fold-2"):
        cross_validate(phantoms, run, CONFIG, n_folds=3, only_fold=1, **PLAIN)
        with pytest.raises(UserError, match=r"run/fold-2 is in use by process"):
            cross_validate(phantoms, run, CONFIG, n_folds=3, only_fold=2, **PLAIN)
        with pytest.raises(UserError, match="run is in use by process"):
            cross_validate(phantoms, run, CONFIG, n_folds=3, resume=True, **PLAIN)
        assert "run is in use by process" in cli("crossval", "--collect", run)[2]
    assert (run / "fold-1/metrics.json").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
