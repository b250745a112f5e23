"""``--images`` and ``--columns``: every command that reads a manifest takes them, and a run remembers them."""

import csv
import json
import shutil

import pytest

from cvrnet.data import read_records
from cvrnet.data.data_set import DataSet
from cvrnet.runs.read import read_run
from cvrnet_cli.commands import cli as group

TRAIN = ["--model", "test_resnet", "--no-pretrained", "--img-size", 64, "--epochs", 1, "--no-audit", "--no-maps"]


@pytest.fixture(scope="module")
def apart(phantoms, tmp_path_factory):
    """The phantoms' table with other names of columns, in a folder of its own; the options that read it."""
    with open(phantoms, newline="") as file:
        rows = list(csv.DictReader(file))
    table = tmp_path_factory.mktemp("tables") / "entries.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Image Index", "Finding, Labels", *list(rows[0])[2:]])
        writer.writerows(row.values() for row in rows)
    columns = 'path="Image Index",label="Finding, Labels"'
    return [table, "--images", phantoms.parent, "--columns", columns]


COMMANDS = {
    "data": lambda run, out: ["data"],
    "audit": lambda run, out: ["audit"],
    "evaluate": lambda run, out: ["evaluate", run, "--no-audit", "--no-maps", "-o", out / "e"],
    "predict": lambda run, out: ["predict", run, "-o", out / "p.csv"],
    "explain": lambda run, out: ["explain", run, "--measure", "-o", out / "x"],
    "calibrate": lambda run, out: ["calibrate", run, "--unlabelled", "-o", out / "c"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_read_the_table(command, run, apart, tmp_path, cli):
    status, _, err = cli(*COMMANDS[command](run, tmp_path), *apart)
    assert status == 0 or command in ("audit", "calibrate"), err  # findings; the model's own images
    assert "Error: " not in err or "was trained or validated on" in err
    if command == "evaluate":
        stored = json.loads((tmp_path / "e/run.json").read_text())
        assert (stored["data"], stored["images_root"]) == (str(apart[0]), str(apart[2]))


def test_a_run_stores_relative_paths_and_both_options(apart, tmp_path, cli):
    run = tmp_path / "run"
    train = ["train", *apart, "-o", run, *TRAIN, "--cache-dir", tmp_path / "cache"]
    status, _, err = cli(*train)
    assert status == 0, err
    about = json.loads((run / "run.json").read_text())
    assert about["columns"] == {"path": "Image Index", "label": "Finding, Labels"}
    with open(run / "split.csv", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    data = DataSet.of_run(about)
    assert set(paths) == {record.name for record in read_records(data)}
    assert not any(path.startswith("/") for path in paths)
    assert "Subgroups" in (run / "report.html").read_text() or "view" not in paths

    status, _, err = cli(*train, "--resume")
    assert status == 0, err
    copy = tmp_path / "copy"
    shutil.copytree(apart[2], copy)
    status, _, err = cli("train", *apart[:2], copy, *apart[3:], *train[6:], "--resume")
    assert status == 1
    assert "images_root is" in err

    (run / "hub.json").write_text("{}")  # as after a download: a stranger chose these paths
    assert not {"data", "images_root", "columns"} & read_run(run).keys()
    assert DataSet.of_run(read_run(run)) is None


def test_what_is_pushed_has_neither_path():
    from cvrnet.hub.redact import public_run

    private = {"data": "/home/ada/m.csv", "images_root": "/home/ada/images", "columns": {"path": "secret"}}
    assert public_run({"kind": "train", **private}, "ada/chest") == {"kind": "train"}


def test_they_go_with_manifests(run, phantoms, cli, tmp_path):
    status, _, err = cli("predict", run, phantoms.parent, "--images", tmp_path)
    assert (status, "need a CSV manifest" in err) == (2, True)
    status, _, err = cli("quickstart", "--images", tmp_path, "-o", tmp_path / "q")
    assert (status, "need a CSV manifest" in err) == (2, True)
    status, _, err = cli("data", phantoms, "--columns", "label")
    assert (status, "expected NAME=COLUMN" in err) == (2, True)


def test_the_commands_that_have_them():
    having = {name for name, c in group.commands.items() if any("--images" in p.opts for p in c.params)}
    assert having == {
        *("audit", "benchmark", "calibrate", "crossval", "data", "evaluate", "explain", "export", "predict"),
        *("lungs", "quickstart", "soup", "train", "tune"),
    }
