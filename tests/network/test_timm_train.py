"""The recipe for timm's train.py: all of it but train.py itself, and that too where TIMM_TRAIN names the script."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.data import create_dataset
from timm.utils import CheckpointSaver

import cvrnet
from tests.support import pages

PAGE = pages.ROOT / "examples" / "timm_train.md"
BLOCKS = pages.blocks(PAGE)
TRAIN = next(block.text for block in BLOCKS if block.text.startswith("python train.py"))
CONVERT = next(block.text for block in BLOCKS if "save_checkpoint" in block.text)
USE = next(block.text for block in BLOCKS if block.text.startswith("cvrnet evaluate"))


def arguments():
    """What the page gives to train.py."""
    return shlex.split(TRAIN.replace("\\\n", " "))[2:]


def option(name):
    words = arguments()
    return words[words.index(name) + 1]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The page's first step, on few phantoms."""
    from cvrnet.data import write_phantoms

    monkeypatch.chdir(tmp_path)
    write_phantoms("phantoms", 36, size=64)
    exec(next(block.text for block in BLOCKS if "holdout_split" in block.text), {})
    return tmp_path / option("--data-dir")


@pytest.fixture
def checkpoint(folders):
    """A checkpoint as train.py writes it, without the training."""
    torch.manual_seed(0)
    model = timm.create_model(option("--model"), num_classes=int(option("--num-classes")))
    target = folders.parent / option("--output") / option("--experiment")
    target.mkdir(parents=True)
    saver = CheckpointSaver(
        model=model,
        optimizer=torch.optim.Adam(model.parameters()),
        args=argparse.Namespace(model=option("--model"), num_classes=3, img_size=96, opt_betas=None),
        checkpoint_dir=str(target),
        recovery_dir=str(target),
        max_history=int(option("--checkpoint-hist")),
    )
    saver.save_checkpoint(0, metric=50.0)
    return model.eval()


def test_the_names_exist():
    assert option("--device-modules") == cvrnet.__name__
    assert option("--model") in cvrnet.list_models()


def test_timm_reads_the_folders_and_no_patient_is_in_both(folders):
    from cvrnet.data import read_records

    sets = {split: create_dataset("", root=folders, split=split) for split in ("train", "validation")}
    for data in sets.values():
        assert data.reader.class_to_idx == {"CVP": 0, "NCP": 1, "NOR": 2}
        image, target = data[0]
        assert image.size[1] == 64
        assert target == 0
    patient = {Path(r.name).name: r.patient_id for r in read_records("phantoms/manifest.csv")}
    seen = [{patient[Path(data.filename(i)).name] for i in range(len(data))} for data in sets.values()]
    assert not seen[0] & seen[1]
    assert sum(map(len, sets.values())) == 36


def test_the_checkpoint_becomes_a_run_that_the_commands_take(checkpoint, cli):
    exec(CONVERT, {})
    again = timm.create_model("local-dir:timm-run", pretrained=True).eval()
    assert again.pretrained_cfg["label_names"] == ["CVP", "NCP", "NOR"]
    assert again.pretrained_cfg["input_size"] == [3, 96, 96] or again.pretrained_cfg["input_size"] == (3, 96, 96)
    x = torch.randn(2, 3, 96, 96)
    assert torch.equal(again(x), checkpoint(x))
    for line in USE.splitlines():
        status, _, err = cli(*shlex.split(line)[1:], *(["--no-audit"] if "evaluate" in line else []))
        assert status == 0, err


@pytest.mark.slow
@pytest.mark.skipif("TIMM_TRAIN" not in os.environ, reason="TIMM_TRAIN names no train.py of timm's repository")
def test_train_py_itself(folders, cli):
    words = re.sub(r"--epochs \d+", "--epochs 1", shlex.join(arguments()))
    command = [sys.executable, os.environ["TIMM_TRAIN"], *shlex.split(words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    exec(CONVERT, {})
    status, out, err = cli("predict", "timm-run", "timm-data/validation/CVP", "--format", "csv")
    assert status == 0, err
    assert out.startswith("path,prediction,prob_CVP,prob_NCP,prob_NOR")
