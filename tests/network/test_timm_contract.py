"""What timm expects of its classifiers, on small networks; ``scripts/timm-tests`` runs timm's own tests on all."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import group_parameters, list_models, save_for_hf
from timm.optim import create_optimizer_v2
from torch import nn

import cvrnet
from cvrnet.encoders.network_size import SkipOnMeta, create_on_meta
from cvrnet.model_info import SAME_SHAPE
from cvrnet.network import CVRNet
from tests.support.networks import SMALL, images, small

MODELS = cvrnet.list_models()


@functools.cache
def on_meta(name: str) -> Any:
    """A registered model without memory, for tests that do not change it."""
    return create_on_meta(name).eval()


def test_models_are_registered_with_timm() -> None:
    assert {"cvrnet", "cvrnet_small", "cvrnet_tiny", "cvrnet_densenet121_efficientnet_b0"} <= set(MODELS)
    assert set(MODELS) == set(list_models(module="cvrnet")) == set(list_models("cvrnet*"))
    assert not set(MODELS) & set(list_models(pretrained=True)), "none has weights of its own"


@pytest.mark.parametrize("name", MODELS)
def test_cfg_in_the_registry_is_that_of_the_model(name: str) -> None:
    model = on_meta(name)
    cfg, state = model.default_cfg, model.state_dict()
    registered = timm.get_pretrained_cfg(name)
    assert registered is not None
    assert (registered.first_conv, registered.classifier) == (cfg["first_conv"], cfg["classifier"])
    assert all(f"{module}.weight" in state for module in (*cfg["first_conv"], *cfg["classifier"]))
    assert len(cfg["first_conv"]) == 2
    assert len(cfg["classifier"]) == 5
    interpolation = "bilinear" if name == "cvrnet_lite" else "nearest"
    assert (cfg["interpolation"], cfg["crop_mode"], cfg["crop_pct"]) == (interpolation, "squash", 1.0)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_any_size_that_radiographs_have(name: str) -> None:
    for size in ((224, 224), (299, 299), (200, 200), (97, 97), (193, 257)):
        with SkipOnMeta(SAME_SHAPE):
            assert on_meta(name)(torch.empty(1, 3, *size, device="meta")).shape == (1, 3)


def test_features_heads_and_classifiers() -> None:
    model, x = small(), images(2, (224, 224))
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 7, 7)
    before = model.forward_head(features, pre_logits=True)
    assert before.shape == (2, model.head_hidden_size)
    assert [c.out_features for c in model.get_classifier()] == [3] * 5  # type: ignore[union-attr]
    model.reset_classifier(0)
    assert model.num_classes == 0
    torch.testing.assert_close(model(x), before)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), features)
    assert torch.equal(model.forward_head(features), features)
    model.reset_classifier(4)
    assert model(x).shape == (2, 4)
    bare = cvrnet.create_model("cvrnet", encoders=SMALL, num_classes=0, global_pool="").eval()
    assert bare(x).shape == features.shape
    assert cvrnet.create_model("cvrnet", encoders=SMALL, num_classes=0).eval()(x).shape == before.shape
    with pytest.raises(ValueError, match="num_classes=1"):
        model.reset_classifier(1)
    with pytest.raises(ValueError, match="num_classes=0 instead of 2"):
        model.reset_classifier(2, "")


def test_features_have_no_idle_parameters() -> None:
    """Distributed training stops at parameters that no output depends on."""
    bare = cvrnet.create_model("cvrnet", encoders=SMALL, num_classes=0, global_pool="")
    features = cvrnet.create_model("cvrnet", encoders=SMALL, features_only=True)
    torch.stack([m.sum() for m in features(images())]).sum().backward()
    bare(images()).sum().backward()
    for model in (bare, features):
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
    network = features.model
    assert isinstance(network, CVRNet)
    encoders = sum(p.numel() for p in network.encoders.parameters())
    assert encoders == sum(p.numel() for p in network.parameters())
    network.to(torch.float64).reset_classifier(4)
    whole = cvrnet.create_model("cvrnet", encoders=SMALL, num_classes=4)
    assert network.state_dict().keys() == whole.state_dict().keys()
    assert {p.dtype for p in network.parameters()} == {torch.float64}
    assert network.head_hidden_size == whole.head_hidden_size
    assert network(images().double()).shape == (2, 4)


def test_reset_classifier_keeps_device_dtype_mode_and_what_is_frozen() -> None:
    model = small().to("meta", torch.float64).train()
    model.reset_classifier(7)
    placed = {(p.device.type, p.dtype) for c in model.get_classifier() for p in c.parameters()}
    assert placed == {("meta", torch.float64)}
    assert all(m.training for m in model.modules())
    model.eval().reset_classifier(3)
    assert not any(m.training for m in model.modules())
    model.requires_grad_(False)
    model.reset_classifier(0)
    assert not any(p.requires_grad for p in model.parameters())


@torch.no_grad()
def test_forward_intermediates() -> None:
    model, x = small(), images(2, (96, 128))
    features, maps = model.forward_intermediates(x)
    torch.testing.assert_close(features, model.forward_features(x))
    info = timm.models.FeatureInfo(model.feature_info, len(model.feature_info))
    assert info.reduction() == [8, 8, 16, 16, 32]
    assert [m.shape[1] for m in maps] == info.channels() == [48, 32, 192, 48, 96 + 64]
    assert [tuple(m.shape[2:]) for m in maps] == [(96 // r, 128 // r) for r in info.reduction()]
    own = [model.groups[g] for g in model.scale_order]
    raw = model.forward_maps(x)
    for group, shown in zip(own, maps, strict=True):
        torch.testing.assert_close(shown, torch.cat([raw[i] for i in group], 1))
    for indices, chosen in ((2, [3, 4]), ([0, -1], [0, 4]), ((4, 1), [4, 1]), (None, [0, 1, 2, 3, 4])):
        taken = model.forward_intermediates(x, indices=indices, intermediates_only=True, stop_early=True)  # type: ignore[arg-type]
        assert all(torch.equal(a, maps[i]) for a, i in zip(taken, chosen, strict=True))
    for wrong in (0, 6, -1, [5], [-6], []):
        with pytest.raises(ValueError, match="1 to 5, or a list of indices from -5 to 4"):
            model.forward_intermediates(x, indices=wrong)
    with pytest.raises(ValueError, match="output_fmt='NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")
    model.set_grad_checkpointing()
    torch.testing.assert_close(model.forward_intermediates(x)[0], features)


@torch.no_grad()
def test_pruned_models_keep_their_features() -> None:
    model, x = small(), images()
    expected, maps = model(x), model.forward_intermediates(x, intermediates_only=True)
    pruned = copy.deepcopy(model)
    assert pruned.prune_intermediate_layers([-1], prune_head=False) == [4]
    assert torch.equal(pruned(x), expected)
    assert pruned.prune_intermediate_layers(2) == [3, 4]
    assert not list(pruned.get_classifier()[0].parameters())
    assert torch.equal(pruned.forward_intermediates(x, [3], intermediates_only=True)[0], maps[3])


@torch.no_grad()
@pytest.mark.parametrize("out_indices", [None, (1, 4), (-1,)], ids=str)
def test_features_only(out_indices: tuple[int, ...] | None) -> None:
    options = {} if out_indices is None else {"out_indices": out_indices}
    model = cvrnet.create_model("cvrnet", encoders=SMALL, features_only=True, in_chans=1, **options).eval()
    channels = [[48, 32, 192, 48, 160][i] for i in out_indices or range(5)]
    reductions = [[8, 8, 16, 16, 32][i] for i in out_indices or range(5)]
    assert model.feature_info.channels() == channels
    assert model.feature_info.reduction() == reductions
    maps = model(images(2, (96, 96), channels=1))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 96 // r, 96 // r) for c, r in zip(channels, reductions, strict=True)
    ]
    assert [len(model.pretrained_cfg[key]) for key in ("mean", "std")] == [1, 1]


def test_layer_wise_learning_rates_cover_every_parameter() -> None:
    model = small()
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    names = [name for name, _ in model.named_parameters()]
    assert set(groups) == set(names)
    assert {group for name, group in groups.items() if name.startswith("encoders")} == {0}
    assert len(set(groups.values())) == 2
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, layer_decay=0.5)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    assert {group["lr_scale"] for group in optimizer.param_groups} == {0.5, 1.0}


@torch.no_grad()
def test_a_model_made_without_memory_loads_and_answers() -> None:
    model, x = small(), images()
    empty = cvrnet.create_model("cvrnet", encoders=SMALL, num_classes=3, device="meta").eval()
    assert all(t.is_meta for t in (*empty.parameters(), *empty.buffers()))
    empty.to_empty(device="cpu")
    for tensor in (*empty.parameters(), *empty.buffers()):
        tensor.fill_(7)  # what an allocation may hold
    for module in empty.modules():
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
    empty.load_state_dict(model.state_dict())
    assert torch.equal(empty(x), model(x))


ARGUMENTS: dict[str, Any] = {
    "encoders": ("test_resnet", "test_vit", "test_convnext"),
    "img_size": 96,
    "num_classes": 4,
    "in_chans": 1,
    "hidden_sizes": (16, 8),
    "act_layer": "gelu",
    "mean": (0.2,),
    "std": (0.3,),
}


@torch.no_grad()
@pytest.mark.parametrize("arguments", [{"encoders": SMALL, "num_classes": 3}, ARGUMENTS], ids=["few", "many"])
def test_every_argument_survives_its_json(tmp_path: Path, arguments: dict[str, Any]) -> None:
    model = small(**arguments)
    save_for_hf(model, str(tmp_path), model_config={"label_names": list("abcd")}, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert not {"encoder_weights", "cache_dir", "pretrained"} & set(config["model_args"])
    x = images(channels=arguments.get("in_chans", 3))
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert isinstance(again, CVRNet)
    assert torch.equal(again(x), model(x))
    for key in ("input_size", "mean", "std", "first_conv", "classifier", "interpolation", "crop_mode"):
        assert tuple(again.pretrained_cfg[key]) == tuple(model.pretrained_cfg[key])  # type: ignore[index]
    assert again.pretrained_cfg["label_names"] == list("abcd")  # type: ignore[index]
    fresh = timm.create_model(f"local-dir:{tmp_path}").eval()
    assert fresh(x).shape == model(x).shape
    assert not torch.equal(fresh(x), model(x))


@torch.no_grad()
def test_a_checkpoint_adapts_to_other_classes_and_channels(tmp_path: Path) -> None:
    model = small()
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    two: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=2)
    state, adapted = model.state_dict(), two.state_dict()
    changed = {key for key, value in state.items() if not torch.equal(value, adapted[key])}
    assert changed == {f"head.blocks.{i}.classifier.{part}" for i in range(5) for part in ("weight", "bias")} | set()
    grey: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=1).eval()
    stems = {f"{conv}.weight" for conv in model.default_cfg["first_conv"]}  # type: ignore[index]
    adapted = grey.state_dict()
    assert {key for key, value in state.items() if not torch.equal(value, adapted[key])} == stems
    for stem in stems:
        torch.testing.assert_close(adapted[stem], state[stem].sum(1, keepdim=True))
    assert grey.pretrained_cfg["input_size"] == (1, 224, 224)
    for key in ("mean", "std"):
        assert grey.pretrained_cfg[key] == pytest.approx((sum(model.pretrained_cfg[key]) / 3,))  # type: ignore[index]
    pixels = torch.rand(2, 1, 96, 96)
    answer = grey((pixels - grey.pretrained_cfg["mean"][0]) / grey.pretrained_cfg["std"][0])
    assert answer.shape == (2, 3)
    assert torch.isfinite(answer).all()


@torch.no_grad()
def test_grey_images_mean_the_same_to_one_channel_as_three_equal_ones_to_three() -> None:
    """With an encoder whose normalisation is the same for all channels, the adapted stem changes nothing."""
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    model = small(("test_resnet", "test_convnext"), **half)
    state = model.state_dict()
    for conv in model.default_cfg["first_conv"]:  # type: ignore[index]
        state[f"{conv}.weight"] = state[f"{conv}.weight"].sum(1, keepdim=True)
    grey = small(("test_resnet", "test_convnext"), in_chans=1, **half)
    grey.load_state_dict(state)
    x = images(channels=1)
    torch.testing.assert_close(grey(x), model(x.repeat(1, 3, 1, 1)), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_normalisation_of_the_whole_model_can_be_chosen() -> None:
    model = small()
    raw = cvrnet.create_model("cvrnet", encoders=SMALL, num_classes=3, mean=(0, 0, 0), std=(1 / 255,) * 3).eval()
    assert raw.pretrained_cfg["std"] == (1 / 255,) * 3
    raw.load_state_dict(model.state_dict())
    pixels = torch.rand(2, 3, 96, 96)
    cfg: Any = model.pretrained_cfg
    normal = (pixels - torch.tensor(cfg["mean"])[:, None, None]) / torch.tensor(cfg["std"])[:, None, None]
    torch.testing.assert_close(raw(pixels * 255), model(normal), atol=1e-4, rtol=1e-4)


def test_an_unnormalised_identity_costs_nothing() -> None:
    model = small()
    assert [type(n) for n in model.normalizers][1] is nn.Identity
