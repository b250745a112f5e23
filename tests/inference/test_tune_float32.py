"""The parts of a network that stay in float32 are found, stored with it, and used."""

import json
import shutil

import numpy as np
import pytest
import torch

import cvrnet
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.inference import tune_float32 as module
from cvrnet.inference.head_logits import HeadLogits
from cvrnet.inference.tune_float32 import BOUND, MARGIN, tune_float32
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from cvrnet.runs.float32_parts import WHOLE, float32_parts, save_float32_parts
from cvrnet.workflows import tune as workflow


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    options = {"encoders": ("test_resnet", "test_efficientnet"), "img_size": 64}
    model = cvrnet.create_model("cvrnet_tiny", num_classes=3, **options)
    return model.eval()


IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


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


@pytest.mark.parametrize(("bound", "parts"), [(1.0, [[], []]), (0.0, [[""], [""]])])
def test_a_wide_limit_needs_no_part_and_a_limit_of_zero_needs_all(network, monkeypatch, bound, parts):
    monkeypatch.setattr(module, "BOUND", bound)
    assert tune_float32(network, IMAGES).parts == parts


def test_narrower_limits_need_more_parts(network, monkeypatch):
    monkeypatch.setattr(module, "BOUND", 1.0)
    change, counts = tune_float32(network, IMAGES).after, []
    for share in (2, 0.75, 0.25, 0):
        bound = share * change / MARGIN
        monkeypatch.setattr(module, "BOUND", bound)
        found = tune_float32(network, IMAGES)
        assert found.after <= MARGIN * bound
        counts.append(99 if found.parts == [[""], [""]] else sum(map(len, found.parts)))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_an_encoder_without_a_list_computes_in_float32(network):
    assert float32_parts(network)[1] == [WHOLE]
    autocast = HeadLogits(network, "bf16")
    assert {p.dtype for p in autocast.model.encoders[1].parameters()} == {torch.float32}
    with torch.inference_mode():
        maps, exact = autocast.maps(IMAGES), network.forward_maps(IMAGES)
    of_first = len(network.encoders[0].channels)
    assert all(torch.equal(a, b) for a, b in zip(maps[of_first:], exact[of_first:], strict=True))
    assert not torch.equal(maps[0], exact[0])


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
    for parts in ([[], []], [[WHOLE], []]):
        save_float32_parts(load_checkpoint(tmp_path), tmp_path, parts)
        assert float32_parts(load_checkpoint(tmp_path)) == parts


@pytest.mark.parametrize(
    "stated", [["0.nothing"], ["9.stem", "9"], ["0."], [""], [3], "0.stem", {}, ["0.backbone"] * 1001]
)
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
    (tmp_path / "few").mkdir()
    for image in sorted((phantoms.parent / "images").rglob("*.png"))[:6]:
        shutil.copy(image, tmp_path / "few")
    status, out, err = cli("tune", tmp_path, tmp_path / "few", "--fold", "1")
    assert (status, "fold-1" in out, "fold-2" in out) == (0, True, False), err
    assert "float32_parts" in json.loads((tmp_path / "fold-1" / "config.json").read_text())
    assert "float32_parts" not in json.loads((tmp_path / "fold-2" / "config.json").read_text())
    assert (tmp_path / "fold-1" / "model.safetensors").read_bytes() == weights
    assert cli("predict", tmp_path / "fold-1", image, "--amp", "bf16")[0] == 0
    assert "cvrnet pull" in cli("tune", "hf-hub:ada/net", image)[2]
    assert "no image can be read" in cli("tune", tmp_path, tmp_path / "fold-1" / "config.json")[2]


TRAINING = ["--model", "cvrnet_tiny", "--encoders", "test_resnet,test_efficientnet", "--no-pretrained"]
TRAINING += ["--img-size", "64", "--epochs", "1", "--no-audit", "--no-maps"]


def test_training_in_bfloat16_ends_with_it(tmp_path, phantoms, cli, monkeypatch):
    monkeypatch.setattr(workflow, "LEAST", 2)
    options = [*TRAINING, "--encoders", "test_resnet", "--amp", "bf16"]
    assert cli("train", phantoms, "-o", tmp_path / "run", *options)[0] == 0
    assert "float32_parts" in json.loads((tmp_path / "run" / "config.json").read_text())


@pytest.mark.parametrize(("least", "amp"), [(2, "bf16"), (1000, "bf16"), (2, "fp32")])
def test_heads_on_frozen_encoders_predict_in_bfloat16_only_if_parts_were_found(
    tmp_path, phantoms, cli, monkeypatch, least, amp
):
    monkeypatch.setattr(workflow, "LEAST", least)
    monkeypatch.setenv("CVRNET_AMP", amp)  # what --amp auto means
    run, images = tmp_path / "run", phantoms.parent / "images"
    assert cli("train", phantoms, "-o", run, *TRAINING, "--freeze", "all")[0] == 0
    found = json.loads((run / "config.json").read_text())["float32_parts"]
    assert (found == ["0", "1"]) == (least == 1000 or amp == "fp32")
    files = sorted(images.rglob("*.png"))
    exact, rounded = (Predictor.from_pretrained(run, "cpu", dtype)(files) for dtype in ("fp32", "bf16"))
    change = max(np.abs(a.probabilities - b.probabilities).max() for a, b in zip(exact, rounded, strict=True))
    assert change <= (1e-6 if found == ["0", "1"] else BOUND)
