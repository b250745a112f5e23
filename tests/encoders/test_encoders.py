"""Encoders: the taps against timm's own networks, every kind of backbone, and the user's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from cvrnet.encoders import (
    ChannelAffine,
    XceptionEncoder,
    create_encoder,
    hub_repository,
    list_encoders,
    register_encoder,
    registry,
)
from cvrnet.encoders.timm_backbone import TimmEncoder
from cvrnet.errors import UserError
from tests.support.networks import enliven, images, small


def hooked(model: nn.Module, x: Tensor, *modules: str) -> list[Tensor]:
    """What these modules of a model put out."""
    outputs: dict[str, Tensor] = {}
    for name in modules:
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: outputs.update({name: out.clone()})
        )
    model(x)
    return [outputs[name] for name in modules]


@torch.no_grad()
def test_xception_taps_are_those_of_timms_own_network_bit_for_bit() -> None:
    torch.manual_seed(0)
    encoder = XceptionEncoder()
    enliven(encoder_with_cfg(encoder))
    reference = timm.create_model("legacy_xception", num_classes=0).eval()
    state = encoder.state_dict()
    names = list(reference.state_dict())
    assert len(state) == len(names)
    reference.load_state_dict({name: state[renamed(name)] for name in names})
    for size in ((96, 96), (97, 65)):
        x = images(2, size)
        expected = hooked(reference, x, "block3.rep.5", "block12.rep.5", "act4")
        actual = encoder(x)
        assert [m.shape[1] for m in actual] == [728, 1024, 2048]
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
        assert actual[0].min() < 0, "a batch-norm output, without ReLU"
        assert actual[2].std((0, 2, 3)).max() > 0.1


def encoder_with_cfg(encoder: XceptionEncoder) -> XceptionEncoder:
    encoder.pretrained_cfg = {"input_size": (3, 96, 96), "mean": (0.5,) * 3, "std": (0.5,) * 3}  # type: ignore[assignment]
    return encoder


def renamed(name: str) -> str:
    """The name in XceptionEncoder of a parameter of timm's Xception."""
    module, _, rest = name.partition(".")
    stem = {"conv1": "stem.0", "bn1": "stem.1", "conv2": "stem.3", "bn2": "stem.4"}
    last = {"conv3": "exit.0", "bn3": "exit.1", "conv4": "exit.3", "bn4": "exit.4"}
    if module in stem | last:
        return f"{(stem | last)[module]}.{rest}"
    number = int(module.removeprefix("block"))
    if number in (3, 12):
        for old, new in (("rep", "body"), ("skipbn", "skip.1"), ("skip", "skip.0")):
            if rest.startswith(f"{old}."):
                return f"{module}.{new}.{rest.removeprefix(f'{old}.')}"
    return f"entry.{number - 1}.{rest}" if number < 3 else f"middle.{number - 4}.{rest}"


@torch.no_grad()
def test_resnet50_taps_are_those_of_timms_own_network_bit_for_bit() -> None:
    torch.manual_seed(0)
    reference = timm.create_model("resnet50", num_classes=0)
    enliven(reference)
    encoder = create_encoder("resnet50")
    assert isinstance(encoder, nn.Module)
    encoder.load_state_dict({f"backbone.{name}": value for name, value in reference.state_dict().items()})
    encoder.eval()
    x = images(2, (97, 65))
    actual = encoder(x)
    expected = hooked(reference, x, "layer2", "layer3", "layer4")
    assert [m.shape[1] for m in actual] == encoder.channels == [512, 1024, 2048]
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    assert actual[2].std((0, 2, 3)).max() > 0.1


BACKBONES = [
    "test_resnet",  # timm's list-style extractor
    "test_efficientnet",  # an extractor of its family's own
    "test_mambaout",  # channels-last
    "test_vit",  # plain transformer: three maps of one size
    "test_coatnet",  # convolution and attention
    "crossvit_tiny_240",  # two stems; timm's hook-style default is replaced
    "swin_tiny_patch4_window7_224",  # hierarchical transformer, channels-last
]


@torch.no_grad()
@pytest.mark.parametrize("name", BACKBONES)
def test_maps_are_what_the_encoder_says(name: str) -> None:
    encoder: Any = create_encoder(name, in_chans=1).eval()  # type: ignore[attr-defined]
    size = encoder.backbone.pretrained_cfg["input_size"][1:]
    maps = encoder(torch.randn(2, 1, *size))
    assert [m.shape[:2] for m in maps] == [(2, c) for c in encoder.channels]
    assert len(maps) == len(encoder.map_names) == 3
    assert encoder.reductions == sorted(encoder.reductions)
    if name != "crossvit_tiny_240":  # its feature_info means another branch
        assert [m.shape[2] for m in maps] == [-(-size[0] // r) for r in encoder.reductions]
    assert encoder.first_conv
    for conv in encoder.first_conv:
        assert encoder.state_dict()[f"{conv}.weight"].shape[1] == 1


def test_unknown_backbones_and_those_without_enough_maps() -> None:
    with pytest.raises(UserError, match="unknown encoder 'resnet5'"):
        create_encoder("resnet5")
    with pytest.raises(UserError, match=r"timm model 'test_resnet' cannot serve as an encoder: .*index"):
        TimmEncoder("test_resnet", num_maps=9)


def test_repositories_are_timms() -> None:
    checked = 0
    for name in timm.list_pretrained("resnet*") + timm.list_pretrained("efficientnet*"):
        cfg = timm.get_pretrained_cfg(name)
        if cfg is not None and cfg.hf_hub_id == f"timm/{cfg.architecture}.{cfg.tag}":
            checked += 1
        assert (hub_repository(name) or "").startswith("timm/") or (cfg is not None and cfg.hf_hub_id)
    assert checked > 100, "the rule that hub_repository applies where timm's cfg names none"
    assert hub_repository("no_such_model") is None


class TinyEncoder(nn.Module):
    """A user's own encoder: nothing of cvrnet is inherited."""

    def __init__(self, *, pretrained: bool, in_chans: int, **kwargs: Any) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.map_names = ["fine", "coarse"]
        self.channels = [4, 6]
        self.reductions = [4, 16]
        self.first_conv = ("fine",)
        self.mean = (0.1, 0.2, 0.3)
        self.std = (0.5, 0.6, 0.7)
        placement = {key: kwargs[key] for key in ("device", "dtype")}
        self.fine = nn.Conv2d(in_chans, 4, 4, stride=4, **placement)
        self.coarse = nn.Conv2d(4, 6, 4, stride=4, **placement)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x)
        return [fine, self.coarse(fine)]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a registered encoder that is a user's own; it is forgotten afterwards."""
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    register_encoder("tiny-encoder", TinyEncoder)
    return "tiny-encoder"


def test_the_users_own_encoder(own: str) -> None:
    assert own in list_encoders()
    model = small((own, "test_efficientnet"), num_classes=2, hidden_sizes=(8,))
    assert model.widths == [4, 6 + 64, 32, 48]
    assert model.map_names[:2] == ["tiny-encoder.fine", "tiny-encoder.coarse"]
    assert model.default_cfg["first_conv"][0] == "encoders.0.fine"  # type: ignore[index]
    x = images()
    torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x), atol=1e-5, rtol=0)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    with pytest.raises(UserError, match="already registered"):
        register_encoder(own, TinyEncoder)


def test_an_encoder_that_is_none_is_named(own: str) -> None:
    class Wrong(TinyEncoder):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            del self.std, self.reductions

    register_encoder("wrong", Wrong)
    with pytest.raises(UserError, match="encoder 'wrong' lacks attributes: reductions, std"):
        create_encoder("wrong", device=None, dtype=None)
    register_encoder("function", lambda **_: print)  # type: ignore[arg-type, return-value]
    with pytest.raises(UserError, match=r"'function' is a .*expected a torch\.nn\.Module"):
        create_encoder("function")


@torch.no_grad()
def test_each_encoder_sees_its_own_normalisation() -> None:
    model = small(("test_resnet", "test_efficientnet"))  # 0.5 and ImageNet
    pixels = torch.rand(2, 3, 96, 96)

    def normalise(mean: Any, std: Any) -> Tensor:
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    cfg: Any = model.pretrained_cfg
    maps = model.forward_maps(normalise(cfg["mean"], cfg["std"]))
    for i, name in enumerate(("test_resnet", "test_efficientnet")):
        reference = timm.create_model(name, features_only=True, out_indices=(-3, -2, -1)).eval()
        reference.load_state_dict(model.encoders[i].get_submodule("backbone").state_dict())
        theirs: Any = reference.pretrained_cfg
        for ours, expected in zip(
            maps[3 * i : 3 * i + 3], reference(normalise(theirs["mean"], theirs["std"])), strict=True
        ):
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert isinstance(model.normalizers[0], ChannelAffine)
    assert isinstance(model.normalizers[1], nn.Identity)


def test_normalisation_of_a_model_that_was_made_without_memory() -> None:
    affine = ChannelAffine([0.1, 0.2], [0.3, 0.4], [0.5, 0.5], [0.6, 0.7])
    empty = ChannelAffine([0.1, 0.2], [0.3, 0.4], [0.5, 0.5], [0.6, 0.7], device="meta").to_empty(device="cpu")
    empty.scale.fill_(float("nan"))
    for module in empty.modules():
        if hasattr(module, "init_non_persistent_buffers"):  # what timm calls then
            module.init_non_persistent_buffers()
    x = torch.randn(1, 2, 3, 3)
    assert torch.equal(empty(x), affine(x))
    assert not empty.state_dict()
