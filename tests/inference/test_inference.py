"""Predictions: the numbers of plain timm, any number of images, one model or several."""

import itertools
import shutil
import threading

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from cvrnet.devices import has_bf16, select_device, select_precision
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.runs.checkpoint import find_checkpoints, load_checkpoint, save_checkpoint


@pytest.fixture
def images(phantoms):
    return sorted(phantoms.parent.glob("images/*/*.png"))[:7]


def test_the_numbers_are_plain_timms(run, images):
    """timm's own transform and model, on the same files."""
    model = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        expected = model(torch.stack([transform(Image.open(p).convert("RGB")) for p in images])).softmax(-1)
    predictions = Predictor.from_pretrained(run, dtype="fp32")(images, batch_size=3)
    np.testing.assert_allclose([p.probabilities for p in predictions], expected, atol=1e-5)
    assert [p.path for p in predictions] == images
    assert [p.label for p in predictions] == [model.pretrained_cfg["label_names"][i] for i in expected.argmax(1)]


@pytest.mark.both_precisions
def test_folds_are_averaged(run, images, tmp_path):
    for fold, seed in enumerate((1, 2, 3), start=1):
        torch.manual_seed(seed)
        model = load_checkpoint(run)
        for block in model.head.blocks:
            torch.nn.init.normal_(block.classifier.weight, std=0.5)
        save_checkpoint(model, tmp_path / f"fold-{fold}", ["CVP", "NCP", "NOR"])
    assert [p.name for p in find_checkpoints(tmp_path)] == ["fold-1", "fold-2", "fold-3"]
    each = [[p.probabilities for p in Predictor.from_pretrained(f)(images)] for f in sorted(tmp_path.iterdir())]
    together = Predictor.from_pretrained(tmp_path)(images, heads=True)
    np.testing.assert_allclose([p.probabilities for p in together], np.mean(each, axis=0), atol=1e-6)
    assert together[0].heads.shape == (5, 3)
    np.testing.assert_allclose([p.heads.mean(0) for p in together], np.mean(each, axis=0), atol=1e-6)
    assert not np.allclose(each[0], each[1])


def test_models_that_do_not_belong_together_are_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "fold-1")
    model = load_checkpoint(run)
    save_checkpoint(model, tmp_path / "fold-2", ["A", "B", "C"])
    with pytest.raises(UserError, match="the folds differ"):
        Predictor.from_pretrained(tmp_path)


def test_a_stream_without_end_takes_constant_memory(run, images):
    """Only a few images are read ahead, and the readers' threads end with the stream."""
    predictor = Predictor.from_pretrained(run)
    asked = itertools.count()

    def forever():
        for i in asked:
            yield images[i % len(images)]

    stream = predictor.stream(forever(), batch_size=4)
    first = list(itertools.islice(stream, 20))
    assert next(asked) <= 20 + 3 * 4 + 2
    threads = threading.active_count()
    stream.close()
    assert threading.active_count() <= threads
    assert [p.path for p in first] == [images[i % len(images)] for i in range(20)]


def test_bad_images(run, images, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    predictor = Predictor.from_pretrained(run)
    got = list(predictor.stream([bad, images[0], bad, bad, bad, bad], batch_size=2))
    assert [bool(p.error) for p in got] == [True, False, True, True, True, True]
    with pytest.raises(UserError, match=r"bad\.png"):
        predictor([images[0], bad])
    assert predictor([]) == []


def test_what_is_no_model_is_named(tmp_path, run):
    with pytest.raises(UserError, match="no such folder"):
        Predictor.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"neither config.json nor fold-\*/config.json"):
        Predictor.from_pretrained(tmp_path)
    shutil.copy(run / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"it has no model.safetensors"):
        Predictor.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(UserError, match="a checkpoint that cannot be loaded"):
        Predictor.from_pretrained(tmp_path)


def test_heads_need_a_cvrnet(tmp_path, images):
    model = timm.create_model("test_resnet", num_classes=2)
    save_checkpoint(model, tmp_path, ["NOR", "CVP"])
    predictor = Predictor.from_pretrained(f"local-dir:{tmp_path}")
    assert predictor(images[:1])[0].label in ("NOR", "CVP")
    with pytest.raises(UserError, match="test_resnet gives no probabilities of heads"):
        predictor(images[:1], heads=True)


def test_a_checkpoint_is_as_readable_as_other_files(tmp_path):
    save_checkpoint(timm.create_model("test_resnet", num_classes=2), tmp_path, ["NOR", "CVP"])
    modes = {(tmp_path / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_saving_checks_the_names(tmp_path):
    with pytest.raises(ValueError, match="3 class names for a model of 2 classes"):
        save_checkpoint(timm.create_model("test_resnet", num_classes=2), tmp_path, ["A", "B", "C"])


def test_number_formats(run, images, monkeypatch):
    """bfloat16 is one argument away, and close; what is automatic follows the device."""
    exact = Predictor.from_pretrained(run, dtype="fp32")(images)
    rough = Predictor.from_pretrained(run, device="cpu", dtype="bf16")(images)
    np.testing.assert_allclose([p.probabilities for p in rough], [p.probabilities for p in exact], atol=0.02)
    assert not np.array_equal([p.probabilities for p in rough], [p.probabilities for p in exact])
    monkeypatch.delenv("CVRNET_AMP")
    cpu = torch.device("cpu")
    for chosen in ("bf16", "fp32"):
        monkeypatch.setenv("CVRNET_AMP", chosen)
        assert select_precision("auto", cpu) == chosen
    monkeypatch.setenv("CVRNET_AMP", "half")
    with pytest.raises(UserError, match="CVRNET_AMP='half'; expected auto, fp32, tf32, bf16, fp16"):
        select_precision("auto", cpu)
    monkeypatch.delenv("CVRNET_AMP")
    assert select_precision("auto", cpu) == ("bf16" if has_bf16(cpu) else "fp32")
    with pytest.raises(UserError, match="unknown precision 'int4'"):
        select_precision("int4", cpu)
    for cuda_only in ("fp16", "tf32"):
        with pytest.raises(UserError, match=f"{cuda_only} needs a CUDA device"):
            select_precision(cuda_only, cpu)


def test_devices(monkeypatch):
    monkeypatch.delenv("CVRNET_AMP")
    assert select_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert select_device().type == "cuda"
    assert select_device("cuda:1").index == 1
    for absent in ("cuda:2", "cuda:256", f"cuda:{10**20}"):  # torch.device takes cuda:256 for cuda:0
        with pytest.raises(UserError, match=f"'{absent}' is not available; PyTorch finds 2 CUDA devices"):
            select_device(absent)
    for emulated, expected in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, e=emulated: e)
        assert select_precision("auto", torch.device("cuda")) == expected
    for unknown in ("gpu", "", "cuda:", "cuda:-1", "meta", "mkldnn", " cpu"):
        with pytest.raises(UserError, match=f"unknown device {unknown!r}; expected auto, cpu, cuda, cuda:N or mps"):
            select_device(unknown)


def test_processes_that_decode_give_the_same_answers(run, phantoms, cli, tmp_path):
    """Also for files that cannot be read, in the order of the files."""
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    paths = [*sorted((phantoms.parent / "images").rglob("*.png"))[:5], tmp_path / "broken.png"]
    expected = cli("predict", run, *paths, "--format", "csv")
    assert cli("predict", run, *paths, "--format", "csv", "--num-workers", "2") == expected
    assert expected[0] == 1
