"""``--any-body-part``: wherever a user's DICOM files are read, it accepts those of other parts than the chest."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cvrnet import Predictor
from cvrnet.data import read_image, read_records
from cvrnet.onnx.check_images import check_pixels
from cvrnet_cli.commands import cli as group
from tests.data.test_dicom import write

TRAIN = ["--model", "test_resnet", "--no-pretrained", "--img-size", 64, "--epochs", 1, "--no-audit", "--no-maps"]
OPTION = "--any-body-part"
REFUSAL = "not a chest: its tags name another part of the body; --any-body-part reads it"


@pytest.fixture(scope="module")
def hands(phantoms, tmp_path_factory):
    """Phantoms as DICOM files of hands, in class folders."""
    folder = tmp_path_factory.mktemp("hands")
    for record in read_records(phantoms)[:24]:
        (folder / record.label).mkdir(exist_ok=True)
        tags = {"PatientID": record.patient_id, "BodyPartExamined": "HAND"}
        write(folder / record.label / f"{record.path.stem}.dcm", read_image(record.path), 8, **tags)
    return folder


COMMANDS = {
    "predict": lambda run, hands, out: ["predict", run, hands, "-o", out / "p.csv"],
    "evaluate": lambda run, hands, out: ["evaluate", run, hands, "-o", out / "e", "--no-audit", "--no-maps"],
    "explain": lambda run, hands, out: ["explain", run, next(hands.glob("*/*.dcm")), "-o", out / "x"],
    "audit": lambda run, hands, out: ["audit", hands, "-o", out / "a"],
    "train": lambda run, hands, out: ["train", hands, "-o", out / "t", "--cache-dir", out / "cache", *TRAIN],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_reads_images_takes_it(command, run, hands, tmp_path, cli):
    arguments = COMMANDS[command](run, hands, tmp_path)
    status, _, err = cli(*arguments)
    assert status == 1
    assert REFUSAL in err
    status, _, err = cli(*arguments, OPTION, *(["--overwrite"] if command in ("predict", "explain") else []))
    assert status == 0 or command == "audit", err
    assert "not a chest" not in err
    if command == "audit":
        assert json.loads((tmp_path / "a/audit.json").read_text())["images"] == 24
    if command == "train":
        assert json.loads((tmp_path / "t/run.json").read_text())["config"]["any_body_part"] is True
        # The cache of a run with the option does not let others pass.
        status, _, err = cli(*COMMANDS["train"](run, hands, tmp_path), "--overwrite")
        assert status == 1
        assert REFUSAL in err


def test_the_commands_that_have_it():
    having = {name for name, command in group.commands.items() if any(OPTION in p.opts for p in command.params)}
    training = {"train", "crossval", "benchmark"}
    assert having == training | {
        "predict",
        "evaluate",
        "explain",
        "audit",
        "export",
        "soup",
        "demo",
        "calibrate",
        "lungs",
        "tune",
    }


def test_an_exports_check_reads_them(run, hands):
    settings = Predictor.from_pretrained(run).preprocessing
    with pytest.raises(ValueError, match="cannot read any of the images"):
        check_pixels(settings, hands, None)
    assert len(check_pixels(replace(settings, any_body_part=True), hands, None)[0]) == 16


def test_in_python(run, hands):
    path = next(hands.glob("*/*.dcm"))
    (answer,) = Predictor.from_pretrained(run, any_body_part=True)([path])
    assert np.isfinite(answer.probabilities).all()
    with pytest.raises(ValueError, match="not a chest"):
        Predictor.from_pretrained(run)([path])
