"""A file of an encoder's weights: matched by the names of its tensors, whatever stands around them."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

import cvrnet
from cvrnet.encoders import create_encoder
from cvrnet.errors import UserError
from cvrnet.hub.card import _base_models
from cvrnet.hub.redact import public_run
from cvrnet.training import TrainConfig, create_for_training
from cvrnet.workflows import train
from tests.conftest import PLAIN, TINY
from tests.support.networks import images

State = dict[str, Tensor]


def weights(name: str = "test_resnet", **arguments: Any) -> State:
    torch.manual_seed(3)
    state = timm.create_model(name, **arguments).state_dict()
    return {key: tensor + 0.01 if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + key: tensor for key, tensor in state.items()}


def two_encoders(state: State) -> State:
    """As contrastive learning saves them: the trained encoder, its momentum copy, and a queue."""
    ours, copies = prefixed("module.encoder_q.")(state), prefixed("module.encoder_k.")(state)
    return {**ours, **{key: tensor + 1 for key, tensor in copies.items()}, "module.queue": torch.zeros(3)}


FORMS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "without a classifier": lambda state: {key: value for key, value in state.items() if not key.startswith("fc")},
    "module": prefixed("module."),
    "model": prefixed("model."),
    "encoder": prefixed("encoder."),
    "backbone": prefixed("module.backbone."),
    "tower": prefixed("visual.trunk."),
    "contrastive": two_encoders,
    "container": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "averaged": lambda state: {"model": {k: v * 0 for k, v in state.items()}, "model_ema": state},
    "another classifier": lambda state: {**state, "fc.weight": torch.zeros(14, 96), "fc.bias": torch.zeros(14)},
    "safetensors": lambda state: state,
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_whatever_stands_around_them(form: str, tmp_path: Path) -> None:
    state = weights()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    content = FORMS[form](state)
    _ = save_file(content, path) if form == "safetensors" else torch.save(content, path)
    encoder: Any = create_encoder("test_resnet", weights=path)
    ours = encoder.state_dict()
    assert len(ours) > 50
    expected = {"backbone." + key: value for key, value in state.items() if not key.startswith("fc.")}
    assert all(torch.equal(value, expected[key]) for key, value in ours.items())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert encoder.weights_from == f"{path.name} (file, SHA-256 {digest})"


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "legacy_xception", "vit_tiny_patch16_224"])
def test_the_maps_are_those_that_timm_makes_of_the_file(name: str, tmp_path: Path) -> None:
    """With another size and number of channels than the file's; without the parts that no map needs."""
    arguments = {"depth": 3, "embed_dim": 32, "num_heads": 2} if name.startswith("vit") else {}
    state = weights(name, **arguments)
    torch.save(state, tmp_path / "all.pth")
    last = ("head", "norm.", "fc") if "vit" in name else ("head", "fc")
    torch.save({key: value for key, value in state.items() if not key.startswith(last)}, tmp_path / "few.pth")
    size = (96, 96)
    made: Any = [
        create_encoder(name, weights=tmp_path / f"{file}.pth", in_chans=1, img_size=size, **arguments).eval()  # type: ignore[attr-defined]
        for file in ("all", "few")
    ]
    x = images(2, size, channels=1)
    maps = [encoder(x) for encoder in made]
    assert all(torch.equal(a, b) for a, b in zip(*maps, strict=True))
    if name != "legacy_xception":
        fixed = {"img_size": size} if name.endswith("224") else {}
        options: Any = {"features_only": True, "out_indices": (-3, -2, -1), "in_chans": 1, **fixed, **arguments}
        overlay = {"file": str(tmp_path / "all.pth")}
        reference = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options).eval()
        assert all(torch.equal(a, b) for a, b in zip(maps[0], reference(x), strict=True))


class Harmful:
    def __reduce__(self) -> Any:
        return Path("ran").touch, ()


def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = weights()
    few = {key: tensor for key, tensor in state.items() if "layer4.0.conv" not in key}
    matched = r"tensors match by their names; missing: "
    files: dict[str, tuple[Any, str]] = {
        "few": (few, rf"does not fit test_resnet: 73 of 75 {matched}layer4\.0\.conv1\.weight, layer4\.0\.conv2\.w"),
        "other": (weights("test_vit"), rf"0 of \d+ {matched}conv1\.0\.weight, .*, …"),
        "shape": (
            {**state, "layer1.0.conv1.weight": torch.zeros(2, 2)},
            "test_resnet: size mismatch for layer1.0.conv1",
        ),
        "code": ({"a": Harmful()}, r"cannot be read: .* \(only weights are read, without running code\)"),
        "list": ([1, 2], "has no tensors with names"),
        "empty": ({}, r"0 of \d+ tensors"),
    }
    for name, (content, _) in files.items():
        torch.save(content, f"{name}.pth")
    Path("text.pth").write_text("not weights")
    Path("short.safetensors").write_bytes(b"12")
    (tmp_path / "folder.pth").mkdir()
    files |= {"text": (0, "cannot be read"), "folder": (0, "no file folder"), "gone": (0, "no file gone")}
    for name, (_, told) in files.items():
        with pytest.raises(UserError, match=told) as error:
            create_encoder("test_resnet", weights=f"{name}.pth")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        create_encoder("test_resnet", weights="short.safetensors")
    Path("pickle.bin").write_bytes(pickle.dumps({"a": Harmful()}, protocol=2))
    with pytest.raises(UserError, match="without running code"):
        create_encoder("test_resnet", weights="pickle.bin")
    assert not Path("ran").exists()
    torch.save(state, "w.pth")
    with pytest.raises(UserError, match="'keras_resnet50' does not take a file of weights"):
        create_encoder("keras_resnet50", weights="w.pth")
    with pytest.raises(UserError, match="test_resnet is not"):
        create_for_training(TrainConfig(model="test_resnet", encoder_weights=("w.pth",), img_size=64), 2)


def test_training_starts_from_named_files(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one encoder of two, by its name; run.json says which file, the checkpoint needs none."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ward-7" / "w=1.pth"
    path.parent.mkdir()
    torch.save(weights(), path)
    config = TrainConfig(**{**TINY, "freeze": "all", "encoder_weights": (f"test_resnet={path}",)})
    said: list[str] = []
    train(phantoms, "run", config, callbacks=cvrnet.workflows.Callbacks(say=said.append), **PLAIN)
    assert not [line for line in said if "random weights" in line]
    run = json.loads(Path("run/run.json").read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert run["pretrained_from"] == [f"w=1.pth (file, SHA-256 {digest})"]
    path.unlink()
    model: Any = timm.create_model("local-dir:run", pretrained=True)
    assert torch.equal(model.encoders[0].state_dict()["backbone.conv1.0.weight"], weights()["conv1.0.weight"])
    assert "encoder_weights" not in json.loads(Path("run/config.json").read_text())["model_args"]

    public = public_run(run, "ada/run")["config"]
    assert public["encoder_weights"] == ["test_resnet=w=1.pth"]
    assert _base_models({**public, "pretrained": True}, model) == ["timm/test_efficientnet.r160_in1k"]
