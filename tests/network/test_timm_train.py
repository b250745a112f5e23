"""The recipe for timm's train.py: all of it but train.py itself, and that too where TIMM_TRAIN names the script."""

import argparse
import math
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
from timm.layers import DropBlock2d, DropPath
from timm.utils import CheckpointSaver

import cvrnet
from cvrnet.errors import UserError
from cvrnet.runs.checkpoint import save_checkpoint
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


PAIR = ("test_resnet", "test_efficientnet")


def test_drop_path_and_drop_block_are_those_of_timms_encoders():
    model = cvrnet.create_model(
        "cvrnet", encoders=("resnet18",), drop_path_rate=0.2, drop_block_rate=0.1, device="meta"
    )
    reference = timm.create_model("resnet18", drop_path_rate=0.2, drop_block_rate=0.1, features_only=True)
    for kind, rate in ((DropPath, "drop_prob"), (DropBlock2d, "drop_prob")):
        ours, timms = (
            [getattr(m, rate) for m in net.modules() if isinstance(m, kind)] for net in (model.encoders, reference)
        )
        assert ours == timms
        assert max(ours) > 0
    plain = cvrnet.create_model(
        "cvrnet", encoders=("resnet18",), drop_path_rate=0.0, drop_block_rate=None, device="meta"
    )
    assert not any(isinstance(m, DropPath | DropBlock2d) for m in plain.modules())


def test_batch_norms_settings_reach_every_batch_norm_and_the_saved_model(tmp_path):
    model = cvrnet.create_model("cvrnet", encoders=PAIR, bn_eps=0.01, bn_momentum=0.3).eval()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(0.01, 0.3)}
    save_checkpoint(model, tmp_path, ["a", "b", "c"])
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(x), model(x))
    timms = timm.create_model("test_efficientnet", bn_eps=0.01, bn_momentum=0.3)
    assert {(m.eps, m.momentum) for m in timms.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {(0.01, 0.3)}
    alone = cvrnet.create_model("cvrnet", encoders=PAIR, bn_eps=0.01, device="meta")
    own = cvrnet.create_model("cvrnet", encoders=PAIR, device="meta")
    pairs = zip(alone.modules(), own.modules(), strict=True)
    assert all(a.momentum == b.momentum for a, b in pairs if isinstance(a, torch.nn.BatchNorm2d))


def test_the_classifiers_can_be_initialised_as_if_there_were_one():
    """The lines of timm's train.py for --head-init-scale and --head-init-bias."""
    torch.manual_seed(0)
    model = timm.create_model("cvrnet", encoders=PAIR, num_classes=4)
    before = [classifier.weight.detach().clone() for classifier in model.get_classifier()]
    with torch.no_grad():
        model.get_classifier().weight.mul_(0.5)
        model.get_classifier().bias.mul_(0.5)
    torch.nn.init.constant_(model.get_classifier().bias, -2.0)
    assert len(before) == 5
    for classifier, weight in zip(model.get_classifier(), before, strict=True):
        assert torch.equal(classifier.weight, 0.5 * weight)
        assert torch.equal(classifier.bias, torch.full((4,), -2.0))
        assert classifier.weight.requires_grad


def test_a_scripted_model_trains_and_is_validated():
    """``--torchscript``: train.py scripts the model, trains it, and validates under inference_mode."""
    torch.manual_seed(0)
    options = {"scriptable": True, "exportable": True, "no_jit": True, "drop_rate": 0.1, "drop_path_rate": None}
    model = timm.create_model("cvrnet", encoders=PAIR, num_classes=3, **options)
    scripted = torch.jit.script(model)
    optimizer = torch.optim.SGD(scripted.parameters(), lr=0.01)
    for _ in range(2):  # validations are between trainings
        for _ in range(3):
            loss = torch.nn.functional.cross_entropy(scripted.train()(torch.randn(4, 3, 64, 64)), torch.arange(4) % 3)
            loss.backward()
            optimizer.step()
        x = torch.randn(3, 3, 64, 64)
        with torch.inference_mode():
            answers = [scripted.eval()(x) for _ in range(3)]
        torch.testing.assert_close(answers[-1], model.eval()(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"encoders": ("test_resnet", "densenet121"), "drop_path_rate": 0.1},
            "encoder 'densenet121' takes no drop",
        ),
        ({"drop_path_rate": 0.1}, "encoder 'legacy_xception' takes no drop_path_rate; leave it out, or choose another"),
        ({"encoders": PAIR, "drop_block_rate": 0.1}, "encoder 'test_efficientnet' takes no drop_block_rate"),
        ({"encoders": PAIR, "drop_path_rate": 1.0}, "drop_path_rate=1.0; expected at least 0, and less than 1$"),
        (
            {"encoders": ("convnext_atto",), "bn_eps": 0.1},
            "bn_eps=0.1: no batch norm in convnext_atto; leave bn_eps out",
        ),
        ({"encoders": PAIR, "bn_eps": 0.0}, "bn_eps=0.0; expected a positive number$"),
        ({"encoders": PAIR, "bn_eps": math.nan}, "bn_eps=nan; expected a positive number$"),
        ({"encoders": PAIR, "bn_momentum": 1.5}, "bn_momentum=1.5; expected a positive number up to 1$"),
        ({"encoders": PAIR, "global_pool": "max"}, "global_pool='max'; expected 'avg', or '' for unpooled features"),
    ],
)
def test_what_the_network_does_not_have_is_refused_in_a_sentence(options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        timm.create_model("cvrnet", device="meta", **options)


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
