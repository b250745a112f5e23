"""The description of models against counts that others make."""

from __future__ import annotations

import pytest
import torch
from fvcore.nn import FlopCountAnalysis

import cvrnet
from cvrnet.errors import UserError
from cvrnet.model_info import describe_model


@pytest.mark.parametrize("name", ["cvrnet", "cvrnet_tiny"])
def test_multiply_adds_are_those_that_fvcore_counts(name: str) -> None:
    model = cvrnet.create_model(name, num_classes=2).eval()
    counter = FlopCountAnalysis(model, torch.zeros(1, 3, 96, 96)).unsupported_ops_warnings(False)
    counted = counter.by_operator()  # of a convolution or matrix product it counts multiply-adds
    assert describe_model(name, 96, num_classes=2).macs == counted["conv"] + counted["linear"] + counted["addmm"]


@pytest.mark.parametrize(("encoder", "size", "published"), [("resnet50", 224, 4.11), ("legacy_xception", 299, 8.40)])
def test_multiply_adds_are_those_of_timms_model_cards(encoder: str, size: int, published: float) -> None:
    """Within a percent: the cards count batch norm and pooling and the ImageNet classifier, we count our heads."""
    assert describe_model("cvrnet", size, encoders=encoder).macs / 1e9 == pytest.approx(published, rel=0.01)


def test_the_papers_table() -> None:
    info = describe_model("cvrnet", num_classes=3)
    assert (info.parameters, info.statistics, info.input_size) == (48_468_727, 107_648, (3, 224, 224))
    assert [(h.name, h.channels, h.grid) for h in info.heads] == [
        ("P1", 512, (28, 28)),
        ("P2", 1024, (14, 14)),
        ("P3", 4096, (7, 7)),
        ("P4", 728, (28, 28)),
        ("P5", 1024, (14, 14)),
    ]
    assert info.heads[2].maps == ("resnet50.layer4", "legacy_xception.act4")
    assert info.heads[3].maps == ("legacy_xception.block3.rep.5",)


@pytest.mark.parametrize("name", cvrnet.list_models())
def test_every_model_is_described(name: str) -> None:
    info = describe_model(name)
    assert info.name == name
    assert info.description.endswith(".")
    assert len(info.encoders) == 2
    assert sum(head.parameters for head in info.heads) < info.parameters
    assert [head.grid for head in info.heads] == [(28, 28), (14, 14), (7, 7), (28, 28), (14, 14)]
    assert 0 < info.macs < 10e9


def test_other_sizes_channels_and_encoders() -> None:
    info = describe_model("cvrnet", 97, encoders=("test_resnet",), in_chans=1, num_classes=0)
    assert info.encoders == ("test_resnet",)
    assert info.input_size == (1, 97, 97)
    assert [head.grid for head in info.heads] == [(13, 13), (7, 7), (4, 4)]


@pytest.mark.parametrize("name", ["resnet18", "no_such_model"])
def test_what_is_no_cvrnet(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' is not a CVR-Net; expected one of cvrnet, "):
        describe_model(name)
