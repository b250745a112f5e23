"""Encoders from timm's own repositories and folders: as timm reads them, and without them once a model is trained."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import close_session, constants
from safetensors.torch import load_file
from timm.models import save_for_hf

import cvrnet
from cvrnet.data import read_records
from cvrnet.encoders import create_encoder
from cvrnet.errors import UserError
from cvrnet.hub.card import _base_models
from cvrnet.hub.redact import public_run
from cvrnet.inference import Predictor
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from cvrnet.training import TrainConfig
from cvrnet.training.model import create_for_training
from cvrnet.workflows import train
from tests.conftest import HUB_PORT, PLAIN, TINY
from tests.support.hub import LocalHub
from tests.support.networks import enliven, images

SHALLOW = {"depth": 3, "embed_dim": 32, "num_heads": 2}
MODELS: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {  # name -> timm's model, arguments, sizes
    "vit": ("vit_tiny_patch16_224", {**SHALLOW, "class_token": False, "global_pool": "avg"}, (64, 96)),
    "dinov2": ("vit_small_patch14_dinov2", {**SHALLOW, "img_size": 56}, (56, 84)),
    "grey": ("test_resnet", {"in_chans": 1, "num_classes": 14}, (96, 64)),
    "convnext": ("test_convnext", {"num_classes": 2}, (96, 64)),
}


def save(folder: Path, name: str = "grey", **cfg: Any) -> Path:
    """A folder as timm writes it, of a network with its own normalisation."""
    model, arguments, _ = MODELS[name]
    torch.manual_seed(len(name))
    network: Any = timm.create_model(model, **arguments)
    channels = arguments.get("in_chans", 3)
    network.pretrained_cfg = {**network.pretrained_cfg, "mean": (0.4,) * channels, "std": (0.2,) * channels, **cfg}
    save_for_hf(network, str(folder), safe_serialization=True)
    return folder


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@torch.no_grad()
@pytest.mark.parametrize("larger", [False, True], ids=["own size", "other size"])
@pytest.mark.parametrize("name", MODELS)
def test_the_maps_are_those_of_timm(name: str, larger: bool, tmp_path: Path) -> None:
    """timm itself reads the folder; position embeddings are resampled and stems adapted as it does."""
    folder, (model, _, sizes) = save(tmp_path, name), MODELS[name]
    size = sizes[larger]
    fixed = {"img_size": size} if timm.get_pretrained_cfg(model).fixed_input_size else {}  # type: ignore[union-attr]
    options: Any = {"features_only": True, "out_indices": (-3, -2, -1), "in_chans": 3, **fixed}
    reference = timm.create_model(f"local-dir:{folder}", pretrained=True, **options).eval()
    encoder: Any = create_encoder(f"local-dir:{folder}", pretrained=True, img_size=(size, size))
    x = images(2, (size, size))
    ours, theirs = encoder.eval()(x), reference(x)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert ours[-1].std() > 0
    assert (encoder.mean[0], encoder.std[0]) == (0.4, 0.2)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """The Hub that this process asks, with an encoder in ada/chest."""
    folder = save(tmp_path_factory.mktemp("repository"), "vit")
    with pytest.MonkeyPatch.context() as patch, LocalHub(port=HUB_PORT) as hub:
        close_session()
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        hub.add("ada/chest", {path.name: path.read_bytes() for path in folder.iterdir()})
        yield hub


def test_a_trained_model_needs_neither_repository_nor_folder(
    hub: LocalHub, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "scans-of-ada")
    encoders = ("hf-hub:ada/chest", f"local-dir:{folder}")
    config = TrainConfig(**{**TINY, "encoders": encoders, "pretrained": True})
    train(phantoms, tmp_path / "run", config, **PLAIN)
    run = json.loads((tmp_path / "run/run.json").read_text())
    commit, files = hub.repository("ada/chest").resolve("main"), run["pretrained_from"]
    assert commit is not None
    assert files[0].startswith(f"ada/chest at commit {commit.id} (Hugging Face Hub), model.safetensors (file, SHA-256 ")
    assert files[1].startswith("scans-of-ada (folder), model.safetensors (file, SHA-256 ")

    shutil.rmtree(folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no cache"))
    asked = len(hub.requests)
    model: Any = load_checkpoint(tmp_path / "run")
    assert model.encoder_names == ["vit_tiny_patch16_224", "test_resnet"]
    assert [e.mean[0] for e in model.encoders] == [0.4, 0.4]
    again = timm.create_model(f"local-dir:{tmp_path}/run", pretrained=True).eval()
    x = images(2, (64, 64))
    assert torch.equal(again(x), model(x))
    save_checkpoint(again, tmp_path / "copy", ["CVP", "NCP", "NOR"])
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("copy", "run")]
    assert configs[0]["model_args"] == configs[1]["model_args"]
    picture = read_records(phantoms)[0].path  # not any file of the folder: other tests put damaged ones beside
    assert [p.label for p in Predictor.from_pretrained(tmp_path / "run")([picture])]
    assert len(hub.requests) == asked

    public = public_run(run, "ada/run")
    assert public["config"]["encoders"] == ["hf-hub:ada/chest", "local-dir"]
    assert str(tmp_path) not in json.dumps(public)
    assert _base_models(public["config"], model) == ["ada/chest"]


def test_only_config_is_read_without_weights_and_the_cache_serves_offline(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    before = len(hub.requests)
    encoder: Any = create_encoder("hf-hub:ada/chest")
    assert encoder.weights_from == ""
    assert not [path for _, path in hub.requests[before:] if "safetensors" in path]
    create_encoder("hf-hub:ada/chest", pretrained=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    loaded: Any = create_encoder("hf-hub:ada/chest", pretrained=True)
    assert loaded.weights_from.startswith("ada/chest")
    assert len(hub.requests) == before
    for missing in ("hf-hub:ada/other", "hf-hub:not a name"):
        with pytest.raises(UserError, match=r"cannot load encoder hf-hub:.*local-dir:FOLDER") as error:
            cvrnet.create_model("cvrnet", encoders=missing, pretrained=True)
        assert "\n" not in str(error.value)


class Harmful:
    def __reduce__(self) -> Any:
        return Path("ran").touch, ()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"architecture": "cvrnet", "model_args": {"encoders": ["local-dir:."]}}, "architecture 'cvrnet'"),
        ({"architecture": "../../etc"}, r"architecture '\.\./\.\./etc'"),
        ({"architecture": None}, "does not describe a timm model"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "'checkpoint_path' among the model's arguments"),
        ({"model_args": {"pretrained_cfg": {"file": "x"}}}, "'pretrained_cfg' among the model's arguments"),
        ({"model_args": {"width": 10**9}}, "has the number 1e"),
        ({"model_args": {"block": "os.system"}}, "cannot serve as an encoder"),
        ({"model_args": {"img_size": [1, 2, 3]}}, "input size"),
        ({"pretrained_cfg": {"mean": "text"}}, "has mean='text'"),
        ({"pretrained_cfg": {"std": [0]}}, r"has std=\[0\]"),
        ({"pretrained_cfg": {"mean": [True] * 3}}, r"has mean=\[True"),
        ({"pretrained_cfg": {"mean": [0.5] * 2}}, r"has mean=\[0\.5"),
        ({"pretrained_cfg": {"std": [1e-320] * 3}}, r"has std=\[1e-320"),
        ({"pretrained_cfg": {"mean": [float("nan")] * 3}}, "the JSON holds NaN"),
        ({"pretrained_cfg": {"input_size": 5}}, "input size"),
        ({"pretrained_cfg": {"input_size": None}}, "input size"),
        ({"pretrained_cfg": {"input_size": [True, True, True]}}, "input size"),
        ({"pretrained_cfg": {"global_pool": {"a": 1}}}, "has global_pool="),
        ({"model_args": {"img_size": 5.5}}, "input size"),
        ({"model_args": {"name": "x"}}, "'name' among the model's arguments"),
        ({"model_args": {"layers": [60000, 1, 1, 1]}}, "more than 30,000 modules"),
        ({"model_args": {"channels": [65536] * 4}}, "more than 2,000,000,000 parameters"),
        ({"model_args": {"channels": [2048] * 4}}, r"asks for [\d,]+ parameters, but model.safetensors has only"),
        ({"architecture": "vit_tiny_patch16_224", "model_args": {"patch_size": 0}}, "cannot serve as an encoder"),
        ({"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": 65536}}, "more than 2,000,000,000"),
        ({"pretrained_cfg": [[]]}, "does not describe a timm model"),
    ],
    ids=str,
)
def test_a_config_from_anywhere_is_refused_in_one_line(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    edit(save(tmp_path), **change)
    with pytest.raises(UserError, match=told) as error:
        create_encoder(f"local-dir:{tmp_path}", pretrained=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"0" * 100_000_000, r"has 100,000,000 bytes; expected at most 1,048,576"),
        (b'{"architecture": "test_resnet", "model_args": {"width": ' + b"9" * 900_000 + b"}}", "of 900,000 digits"),
        (b'{"architecture": "test_resnet", "architecture": "test_vit"}', "gives 'architecture' twice"),
        (b'{"architecture": "\xff"}', "cannot be read"),
        (b"", "cannot be read"),
        (b"[]", "does not describe a timm model"),
    ],
    ids=["deep", "large", "digits", "twice", "bytes", "empty", "list"],
)
def test_a_damaged_config_is_refused_in_one_line(content: bytes, told: str, tmp_path: Path) -> None:
    (save(tmp_path) / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=told) as error:
        create_encoder(f"local-dir:{tmp_path}", pretrained=True)
    assert "\n" not in str(error.value)


def test_a_config_cannot_name_other_files_and_a_pickle_cannot_run_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"file": "/etc/passwd", "url": "file:///etc/passwd", "hf_hub_id": "eve/x", "hf_hub_filename": "../x"}
    folder = save(tmp_path / "repository")
    edit(folder, pretrained_cfg={**json.loads((folder / "config.json").read_text())["pretrained_cfg"], **others})
    loaded: Any = create_encoder(f"local-dir:{folder}", pretrained=True, in_chans=1)
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(loaded.state_dict()["backbone.conv1.0.weight"], stored["conv1.0.weight"])
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Harmful()}))
    with pytest.raises(UserError, match=r"cannot be read: .* \(only weights are read, without running code\)"):
        create_encoder(f"local-dir:{folder}", pretrained=True)
    assert not Path("ran").exists()
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        create_encoder(f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"encoders": ["hf-hub:ada/chest"]},
        {"encoders": ["local-dir:repository"]},
        {"encoder_args": [{"checkpoint_path": "/etc/passwd"}]},
        {"encoder_args": [{"pretrained_cfg": {"file": "/etc/passwd"}}]},
        {"encoders": ["cvrnet"], "encoder_args": [{"encoders": ["hf-hub:ada/chest"]}]},
    ],
    ids=str,
)
def test_a_trained_model_from_anywhere_opens_nothing_else(
    arguments: dict[str, Any], hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with our loading, nor with timm's."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "repository")
    torch.manual_seed(0)
    model = cvrnet.create_model("cvrnet", encoders=("test_resnet",), num_classes=3)
    enliven(model)
    save_checkpoint(model, tmp_path / "run", ["CVP", "NCP", "NOR"])
    edit(tmp_path / "run", model_args={"encoders": ["test_resnet"], **arguments})
    asked = len(hub.requests)
    for load in (load_checkpoint, lambda run: timm.create_model(f"local-dir:{run}", pretrained=True)):
        with pytest.raises(UserError, match=r"not needed|encoder_args has|unknown encoder"):
            load(tmp_path / "run")
    assert len(hub.requests) == asked


def test_a_trained_model_keeps_its_encoders(tmp_path: Path) -> None:
    """Neither other encoders nor weights for them can be asked for when training starts from it."""
    model = cvrnet.create_model("cvrnet", encoders=("test_resnet",), num_classes=3)
    save_checkpoint(model, tmp_path, ["CVP", "NCP", "NOR"])
    config = TrainConfig(model=f"local-dir:{tmp_path}", img_size=64)
    for further in ({"encoders": ("hf-hub:ada/chest",)}, {"encoder_weights": ("w.pth",)}):
        with pytest.raises(UserError, match="is not needed; leave it out: the trained model holds the weights"):
            create_for_training(replace(config, **further), 3)
    with pytest.raises(UserError, match=r"^'w\.pth' is not needed"):  # also as a text, as a model's argument
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True, encoder_weights="w.pth")
