"""Packed convolutions give what PyTorch's give, for every shape, in both number formats."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cvrnet.devices import has_bf16
from cvrnet.inference.packed_convolutions import PackedConv2d, pack_convolutions

CPU = torch.device("cpu")
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.skipif(not has_bf16(CPU), reason="no bf16"))]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None)
@given(
    groups=st.sampled_from([1, 2, 8]),
    width=st.integers(1, 3),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
    bias=st.booleans(),
    size=st.integers(10, 17),
)
def test_it_computes_the_convolution(dtype, groups, width, kernel, stride, dilation, padding, bias, size):
    torch.manual_seed(0)
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias}
    conv = nn.Conv2d(8, 8 * width, kernel, **settings).to(dtype)
    packed = PackedConv2d(conv)
    with torch.inference_mode():
        for count, side in ((2, size), (1, size), (3, size + 4)):  # the layout was chosen for the first
            x = torch.randn(count, 8, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
            expected, found = conv(x), packed(x)
            assert found.dtype == dtype
            torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 0.02, rtol=0.02)


def test_what_it_cannot_compute_stays():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding_mode="reflect", padding=1),
        nn.Conv2d(4, 4, 3).double(),
        nn.Sequential(nn.Conv2d(4, 4, 3)),
        nn.ConvTranspose2d(4, 4, 3),
    )
    pack_convolutions(model)
    kinds = [type(m).__name__ for m in model.modules()]
    assert kinds == ["Sequential", "Conv2d", "Conv2d", "Conv2d", "Sequential", "PackedConv2d", "ConvTranspose2d"]
