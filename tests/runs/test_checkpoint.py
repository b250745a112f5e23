"""Loading: exactly what was saved, no random weights on the way, and no half-filled network."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import cvrnet
from cvrnet.errors import UserError
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from cvrnet.runs.empty_model import _PORTION
from tests.conftest import TINY
from tests.support.networks import network


def assert_same(a, b):
    """Parameters, and buffers whether or not checkpoints hold them."""
    for tensors in ("named_parameters", "named_buffers"):
        ours, theirs = dict(getattr(a, tensors)()), dict(getattr(b, tensors)())
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert torch.equal(ours[name], value), name
            assert ours[name].dtype == value.dtype
            assert ours[name].requires_grad == value.requires_grad


def random_model(name, num_classes):
    """Sooner than initialised weights."""
    model = timm.create_model(name, num_classes=num_classes, device="meta").to_empty(device="cpu")
    for i, tensor in enumerate(model.state_dict().values()):
        tensor.copy_(torch.arange(tensor.numel()).view_as(tensor) + i)
    return model


@pytest.mark.parametrize("name", cvrnet.list_models())
def test_every_registered_model(name, tmp_path):
    save_checkpoint(random_model(name, 3), tmp_path, ["A", "B", "C"])
    loaded = load_checkpoint(tmp_path)
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert_same(loaded, plain)
    assert loaded.pretrained_cfg == plain.pretrained_cfg
    assert not loaded.training


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_vit",
        "test_convnext",
        "test_byobnet",
        "resnetblur18",
        "swin_tiny_patch4_window7_224",
        "levit_128s",
    ],
)
def test_plain_timm_models(name, tmp_path):
    """Among them some with buffers that no checkpoint holds: blurring kernels, indices of windows and attention."""
    save_checkpoint(timm.create_model(name, num_classes=2), tmp_path, ["A", "B"])
    loaded, plain = load_checkpoint(tmp_path), timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert_same(loaded, plain)
    x = torch.randn(1, *timm.data.resolve_model_data_config(plain)["input_size"])
    with torch.no_grad():
        assert torch.equal(loaded(x), plain(x))


def test_no_random_weights_are_made(tmp_path, monkeypatch):
    save_checkpoint(network("cvrnet_tiny"), tmp_path, ["A", "B", "C"])
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: pytest.fail("filled twice"))
    state = torch.get_rng_state()
    model = load_checkpoint(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.randn(1, 3, 64, 64)
    model(x).sum().backward()  # no inference tensors: it can be trained and explained
    assert all(p.grad is not None and not p.is_inference() for p in model.parameters())


def test_a_network_that_cannot_be_laid_out_is_created(tmp_path, monkeypatch):
    """Some calculate with their random weights, or hold tensors that are not named; they load as timm loads them."""
    model = network("cvrnet_tiny")
    save_checkpoint(model, tmp_path, ["A", "B", "C"])
    create = timm.create_model

    def no_meta(name, **kwargs):
        if kwargs.get("device") == "meta":
            raise TypeError("unexpected keyword argument 'device'")
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", no_meta)
    assert_same(load_checkpoint(tmp_path), model)


def test_other_classes_on_request(tmp_path):
    save_checkpoint(network("cvrnet_tiny"), tmp_path, ["A", "B", "C"])
    assert load_checkpoint(tmp_path, num_classes=5)(torch.randn(1, 3, 64, 64)).shape == (1, 5)


def spoil(folder, change):
    """Another model.safetensors, or config.json, in the place of the right one."""
    weights, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    change(weights, config)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, c: w.pop("head.blocks.0.classifier.weight"), "lacks head.blocks.0.classifier.weight$"),
        (lambda w, c: w.update(extra=torch.zeros(1)), "holds extra, which cvrnet_tiny does not have"),
        (
            lambda w, c: w.update({"head.blocks.1.classifier.bias": torch.zeros(7)}),
            r"head.blocks.1.classifier.bias has the shape \(7,\) in model.safetensors; cvrnet_tiny expects \(3,\)",
        ),
        (lambda w, c: c["model_args"].update(num_classes=4), r"has the shape .*; cvrnet_tiny expects \(4, 64\)"),
        (lambda w, c: c["model_args"].update(num_classes=10**12), "expected -65,536 to 65,536"),
        (lambda w, c: c.update(architecture="resnot"), r"Unknown model \(resnot\)"),
        (lambda w, c: c["model_args"].update(encoders=["resnot"]), "unknown encoder 'resnot'"),
        (lambda w, c: c["model_args"].update(colour="red"), "colour"),
        (lambda w, c: c["pretrained_cfg"].update(mean=[]), r"mean \(\) and std \(0\.229, .* do not fit 3 channels"),
        (lambda w, c: c["pretrained_cfg"].update(std=[0.2, 0, 0.2]), r"std \(0\.2, 0, 0\.2\) do not fit 3 channels"),
        (lambda w, c: c.clear(), "cannot be loaded"),
    ],
    ids=[
        "missing",
        "surplus",
        "shape",
        "classes",
        "absurd",
        "architecture",
        "encoder",
        "argument",
        "mean",
        "std",
        "empty",
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    save_checkpoint(network("cvrnet_tiny"), tmp_path, ["A", "B", "C"])
    spoil(tmp_path, change)
    with pytest.raises(UserError, match=message) as error:
        load_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


def test_a_torn_file_is_refused(tmp_path):
    save_checkpoint(network("cvrnet_tiny"), tmp_path, ["A", "B", "C"])
    data = (tmp_path / "model.safetensors").read_bytes()
    for torn in (data[:-1], data[: len(data) // 2], data[:9], b""):
        (tmp_path / "model.safetensors").write_bytes(torn)
        with pytest.raises(UserError, match="a checkpoint that cannot be loaded"):
            load_checkpoint(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_in_memory_once(tmp_path):
    """The peak while loading is the network and a portion of the file; twice the network would be easier to get."""
    for name in ("resnet10t", "resnet101"):
        save_checkpoint(random_model(name, 2), tmp_path / name, ["A", "B"])
    # ru_maxrss would not do: a new process inherits the peak of the process that starts it.
    code = """
import re, sys
from pathlib import Path
from cvrnet.inference import Predictor

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

Predictor.from_pretrained(sys.argv[1] + "/resnet10t", device="cpu", dtype="fp32")  # imports everything
Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
before = kilobytes("VmRSS")
Predictor.from_pretrained(sys.argv[1] + "/resnet101", device="cpu", dtype="fp32")
print((kilobytes("VmHWM") - before) * 1024)
"""
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    size = (tmp_path / "resnet101/model.safetensors").stat().st_size
    assert size < int(out.stdout) < size + 1.25 * _PORTION


def test_a_run_loads_as_it_was_trained(run):
    assert_same(load_checkpoint(run), timm.create_model(f"local-dir:{run}", pretrained=True))
    assert TINY["encoders"] == tuple(load_checkpoint(run).encoder_names)
