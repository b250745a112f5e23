"""The parts of a network that stay in float32 are found, stored with it, and used."""

import json

import pytest
import torch

import cvrnet
from cvrnet.errors import UserError
from cvrnet.inference import tune_float32 as module
from cvrnet.inference.head_logits import HeadLogits
from cvrnet.inference.tune_float32 import BOUND, MARGIN, tune_float32
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from cvrnet.runs.float32_parts import float32_parts, save_float32_parts
from cvrnet.workflows import tune as workflow


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = cvrnet.create_model("cvrnet_tiny", num_classes=3, encoders=("test_resnet", "test_efficientnet"))
    return model.eval()


IMAGES = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_the_change_is_within_the_limit_and_what_was_said(network):
    found = tune_float32(network, IMAGES)
    assert found.after <= MARGIN * BOUND
    twin = HeadLogits(network, "fp32"), None
    network.float32_parts = [f"{i}.{name}" for i, names in enumerate(found.parts) for name in names]
    try:
        with torch.inference_mode():
            exact, rounded = twin[0](IMAGES)[0], HeadLogits(network, "bf16")(IMAGES)[0]
    finally:
        del network.float32_parts
    change = (exact.softmax(-1).mean(0) - rounded.softmax(-1).mean(0)).abs().max()
    # Batch norm is folded in the search, and not here.
    assert change <= BOUND
    assert float32_parts(network) != found.parts or found.before == found.after


@pytest.mark.parametrize(("bound", "few"), [(1.0, True), (0.0, False)])
def test_a_wide_limit_needs_no_part_and_none_can_be_left_out_at_zero(network, monkeypatch, bound, few):
    monkeypatch.setattr(module, "BOUND", bound)
    found = tune_float32(network, IMAGES)
    names = [name for parts in found.parts for name in parts]
    if few:
        assert names == []
    else:
        assert len(names) > sum(map(len, float32_parts(network)))
        assert found.after <= found.before


def test_they_travel_with_the_model(network, tmp_path):
    save_checkpoint(network, tmp_path, ["a", "b", "c"])
    assert float32_parts(load_checkpoint(tmp_path)) == float32_parts(network)
    first = next(name for name, m in network.encoders[0].named_modules() if isinstance(m, torch.nn.Conv2d))
    save_float32_parts(load_checkpoint(tmp_path), tmp_path, [[first], []])
    loaded = load_checkpoint(tmp_path)
    assert float32_parts(loaded) == [[first], []]
    dtypes = {
        name.replace(".part", ""): m.weight.dtype
        for name, m in HeadLogits(loaded, "bf16").model.encoders.named_modules()
        if isinstance(m, torch.nn.Conv2d)
    }
    assert [name for name, dtype in dtypes.items() if dtype == torch.float32] == [f"0.{first}"]
    save_float32_parts(load_checkpoint(tmp_path), tmp_path, [[], []])
    assert float32_parts(load_checkpoint(tmp_path)) == [[], []]


@pytest.mark.parametrize("stated", [["0.nothing"], ["9.stem"], [""], [3], "0.stem", {}, ["0.backbone"] * 1001])
def test_a_foreign_config_is_refused_in_a_line(network, tmp_path, stated):
    save_checkpoint(network, tmp_path, ["a", "b", "c"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "float32_parts": stated}))
    with pytest.raises(UserError, match="float32_parts that") as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_command(network, tmp_path, phantoms, cli):
    for fold in (1, 2):
        save_checkpoint(network, tmp_path / f"fold-{fold}", ["a", "b", "c"])
    weights = (tmp_path / "fold-1" / "model.safetensors").read_bytes()
    status, out, err = cli("tune", tmp_path, phantoms.parent / "images", "--fold", "1")
    assert (status, "fold-1" in out, "fold-2" in out) == (0, True, False), err
    assert "float32_parts" in json.loads((tmp_path / "fold-1" / "config.json").read_text())
    assert "float32_parts" not in json.loads((tmp_path / "fold-2" / "config.json").read_text())
    assert (tmp_path / "fold-1" / "model.safetensors").read_bytes() == weights
    image = sorted((phantoms.parent / "images").rglob("*.png"))[0]
    assert cli("predict", tmp_path / "fold-1", image, "--amp", "bf16")[0] == 0
    assert "cvrnet pull" in cli("tune", "hf-hub:ada/net", image)[2]
    assert "no image can be read" in cli("tune", tmp_path, tmp_path / "fold-1" / "config.json")[2]


def test_training_in_bfloat16_ends_with_it(tmp_path, phantoms, cli, monkeypatch):
    arguments = ["--model", "cvrnet_tiny", "--encoders", "test_resnet,test_efficientnet", "--no-pretrained"]
    arguments += ["--img-size", "64", "--epochs", "1", "--no-audit", "--no-maps", "--amp", "bf16"]
    monkeypatch.setattr(workflow, "LEAST", 2)
    assert cli("train", phantoms, "-o", tmp_path / "run", *arguments)[0] == 0
    assert "float32_parts" in json.loads((tmp_path / "run" / "config.json").read_text())
