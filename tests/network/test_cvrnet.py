"""The network: its numbers, its arithmetic, and everything that is done with a torch module."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import cvrnet
from cvrnet.encoders.network_size import create_on_meta
from cvrnet.errors import UserError
from cvrnet.network import CVRNet
from tests.support.networks import SMALL, images, network, small


def on_meta(name: str, **options: Any) -> CVRNet:
    """A model without memory, for what needs no numbers."""
    model = create_on_meta(name, **options)
    assert isinstance(model, CVRNet)
    return model


def count(tensors: Any) -> int:
    return sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize(("num_classes", "parameters"), [(2, 48_468_402), (3, 48_468_727)])
def test_the_papers_network_has_the_papers_numbers(num_classes: int, parameters: int) -> None:
    model = on_meta("cvrnet", num_classes=num_classes)
    assert count(p for p in model.parameters() if p.requires_grad) == parameters
    assert count(b for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var"))) == 107_648
    assert model.widths == [512, 1024, 4096, 728, 1024]
    assert model.num_features == 7384
    assert model.head_hidden_size == 320


def test_keras_counts_of_the_whole_network_and_of_each_head() -> None:
    """Keras counts batch norm's statistics, and its ResNet has 26,560 convolution biases besides (v1 Table 2)."""
    model = on_meta("cvrnet", num_classes=3)
    statistics = count(b for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var")))
    assert count(model.parameters()) + statistics + 26_560 == 48_602_935
    p1, *_, p4, _ = (count(block.parameters()) for block in model.head.blocks)
    assert (p1, p4) == (336_771, 447_363)


def test_tiny_is_tiny_and_small_is_small() -> None:
    assert count(on_meta("cvrnet_tiny").parameters()) < 4_000_000
    assert count(on_meta("cvrnet_small").parameters()) < 16_000_000


@torch.no_grad()
@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        pytest.param(small, [(224, 224), (299, 299), (200, 200), (97, 97), (193, 257)], id="small"),
        pytest.param(lambda: network("cvrnet"), [(128, 128), (97, 131)], id="cvrnet", marks=pytest.mark.slow),
    ],
)
def test_two_halves_of_forward_agree_at_every_size(model: Any, sizes: list[tuple[int, int]]) -> None:
    model, moved = model(), 0.0
    for size in sizes:
        x = images(2, size)
        features, logits = model.forward_features(x), model(x)
        assert features.shape[1] == model.num_features
        torch.testing.assert_close(model.forward_head(features), logits, atol=1e-5, rtol=0)
        moved = max(moved, (logits[0] - logits[1]).abs().max().item())
    assert moved > 0.1, "the network must tell the images apart, or nothing was tested"


@torch.no_grad()
@pytest.mark.parametrize("size", [(97, 97), (193, 257)])
def test_plain_adaptive_pooling_would_not_agree(size: tuple[int, int]) -> None:
    """Grids that do not divide: why each channel's mean is corrected."""
    model, x = small(), images(2, size)
    maps = model.forward_maps(x)
    grid = maps[model.deepest].shape[2:]
    pooled = [nn.functional.adaptive_avg_pool2d(m, grid).mean((2, 3)) for m in maps]
    vectors = [torch.cat([pooled[i] for i in group], 1) for group in model.groups]
    assert (model.head(vectors) - model(x)).abs().max() > 1e-2


@torch.no_grad()
def test_softmax_is_the_mean_of_the_heads_and_cross_entropy_its_log() -> None:
    model, x, labels = small(), images(4), torch.tensor([0, 1, 2, 0])
    heads = torch.stack([z.softmax(-1) for z in model.branch_logits(x)])
    assert len(heads) == 5
    assert heads.std(0).max() > 0.05
    logits = model(x)
    torch.testing.assert_close(logits.softmax(-1), heads.mean(0))
    torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(4), atol=1e-6, rtol=0)
    expected = -heads.mean(0)[torch.arange(4), labels].log().mean()
    torch.testing.assert_close(nn.functional.cross_entropy(logits, labels), expected)


@torch.no_grad()
@pytest.mark.parametrize(
    ("encoders", "heads"),
    [
        (("test_resnet",), 3),
        ("test_resnet", 3),
        (("test_resnet", "test_efficientnet"), 5),
        (["test_resnet", "test_mambaout", "test_convnext"], 7),
        (("test_vit", "test_resnet"), 5),
        (("test_resnet", "test_resnet"), 5),
    ],
    ids=lambda value: "+".join([value] if isinstance(value, str) else value) if not isinstance(value, int) else "",
)
def test_any_encoders(encoders: Any, heads: int) -> None:
    model, x = small(encoders, img_size=96), images(2)
    assert len(model.branch_logits(x)) == len(model.feature_info) == heads
    torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x), atol=1e-5, rtol=0)
    features = cvrnet.create_model("cvrnet", encoders=encoders, features_only=True, img_size=96).eval()
    assert [m.shape[1] for m in features(x)] == features.feature_info.channels()
    assert len(features(x)) == heads


@torch.no_grad()
@pytest.mark.slow
def test_swin_and_convnext() -> None:
    torch.manual_seed(0)
    model = cvrnet.create_model("cvrnet", encoders=("swin_tiny_patch4_window7_224", "convnext_atto"), num_classes=2)
    model.eval()
    assert model.widths == [192, 384, 768 + 320, 80, 160]
    x = images(2, (224, 224))
    torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("img_size", [None, (128, 192)], ids=str)
def test_encoders_of_one_size_are_built_for_the_models_size(img_size: Any) -> None:
    names = ("swinv2_tiny_window8_256", "vit_tiny_patch16_384")
    model = on_meta("cvrnet", encoders=names, num_classes=2, img_size=img_size).eval()
    size = img_size or (224, 224)
    assert model.default_cfg["input_size"] == (3, *size)  # type: ignore[index]
    assert model(torch.empty(1, 3, *size, device="meta")).shape == (1, 2)


@torch.no_grad()
def test_channels_last_and_half_precision_give_nearly_the_same() -> None:
    model, x = small(), images(4)
    expected = model(x).softmax(-1)
    assert expected.std(0).max() > 0.05
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last.softmax(-1), expected, atol=1e-5, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(x).float().softmax(-1), expected, atol=0.05, rtol=0)
    halved = copy.deepcopy(model).bfloat16()(x.bfloat16())
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float().softmax(-1), expected, atol=0.1, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_compile_without_graph_break() -> None:
    model, x = small(("test_resnet", "legacy_xception")), images(2, (64, 64))
    del model.encoders[1].middle[1:]  # seven more of the same block  # type: ignore[union-attr]
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))


@torch.no_grad()
def test_export_for_any_batch_size() -> None:
    model, x = small(), images(3, (64, 64))
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (x[:2],), dynamic_shapes={"x": {0: batch}}).module()
    torch.testing.assert_close(exported(x), model(x))


@torch.no_grad()
def test_torchscript_and_fx_give_the_same() -> None:
    model, x = small(), images()
    expected = model(x)
    assert torch.equal(torch.jit.script(model)(x), expected)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), expected)
    assert torch.equal(torch.jit.script(traced)(x), expected)
    larger = images(1, (128, 160))
    assert torch.equal(traced(larger), model(larger))


@torch.no_grad()
def test_copies_pickles_and_safetensors_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    model, x = small(), images()
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    fresh = cvrnet.create_model("cvrnet", encoders=SMALL, num_classes=3).eval()
    fresh.load_state_dict(state)
    assert torch.equal(fresh(x), expected)


def test_gradients_are_right_and_reach_every_parameter() -> None:
    model = small(hidden_sizes=(16, 8)).double()
    x, labels = images(2, (64, 64)).double(), torch.tensor([0, 2])

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(x), labels)

    parameters = dict(model.named_parameters())
    gradients = dict(zip(parameters, torch.autograd.grad(loss(), list(parameters.values())), strict=True))
    silent = [name for name, gradient in gradients.items() if not gradient.any()]
    assert not silent
    torch.manual_seed(0)
    directions = {name: torch.randn_like(p) * p.std().clamp(min=1e-3) for name, p in parameters.items()}
    step = 1e-7
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            for name, parameter in parameters.items():
                parameter.add_(sign * step * directions[name])
            values.append(loss())
            for name, parameter in parameters.items():
                parameter.sub_(sign * step * directions[name])
    numerical = (values[0] - values[1]) / (2 * step)
    analytical = torch.stack([(gradients[name] * directions[name]).sum() for name in parameters]).sum()
    assert analytical.abs() > 1e-3
    torch.testing.assert_close(analytical, numerical, rtol=1e-5, atol=1e-8)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for enabled in (False, True):
        model = small().train()
        model.set_grad_checkpointing(enabled)
        nn.functional.cross_entropy(model(images(4)), torch.tensor([0, 1, 2, 0])).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_drop_rate_hidden_sizes_and_activation_reach_the_heads() -> None:
    model = small(drop_rate=0.4, hidden_sizes=(32, 16), act_layer="gelu")
    drops = [m.p for m in model.head.modules() if isinstance(m, nn.Dropout)]
    assert drops == [0.4] * 5
    assert [m.out_features for m in model.head.blocks[0].modules() if isinstance(m, nn.Linear)] == [32, 16, 3]
    assert sum(type(m).__name__ == "GELU" for m in model.head.modules()) == 10
    assert model.head_hidden_size == 80
    x = images()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes=1"),
        ({"encoders": ()}, "encoders is empty"),
        ({"encoders": ("test_resnet", "resnet5")}, "unknown encoder 'resnet5'"),
        ({"global_pool": "max"}, "global_pool='max'"),
        ({"global_pool": ""}, "num_classes=0 instead of 3"),
        ({"act_layer": "relou"}, "unknown activation 'relou'"),
        ({"encoder_weights": True}, "encoder_weights=True; expected NAME=FILE"),
        ({"encoder_weights": "w.pth"}, "encoder_weights='w.pth'; expected NAME=FILE, where NAME is test_"),
        ({"encoder_args": ({},)}, "encoder_args has 1 items; expected one for each of 2 encoders"),
        ({"encoder_args": ({}, {"checkpoint_path": "/etc/passwd"})}, "encoder_args has 'checkpoint_path'"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cvrnet.create_model("cvrnet", **{"encoders": SMALL, "num_classes": 3, **options})


def test_unknown_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="not_an_argument"):
        cvrnet.create_model("cvrnet", encoders=SMALL, not_an_argument=1)


def test_only_user_errors_are_raised_for_users_mistakes() -> None:
    with pytest.raises(UserError, match="unknown encoder 'resnet5'"):
        cvrnet.create_model("cvrnet", encoders="resnet5")
    assert issubclass(UserError, ValueError)
    assert timm.create_model is cvrnet.create_model
