"""Xception with the papers' feature maps. Two of these maps come from inside a block, so timm does not offer them.

The first CVR-Net paper is arXiv 2007.11993.
"""

from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from cvrnet.encoders.timm_backbone import locate_weights, weights_origin
from cvrnet.encoders.weights_file import read_weights_file


class XceptionEncoder(nn.Module):
    """timm's ``legacy_xception``, changed to return the papers' maps E23, E24 and E25 (first paper, Fig. 2, Table 2).

    ======  ============================  ========  =========  ========================================
    map     Keras layer                   channels  reduction  timm
    ======  ============================  ========  =========  ========================================
    E23     ``block4_sepconv2_bn``        728       8          output of ``block3.rep[5]``
    E24     ``block13_sepconv2_bn``       1024      16         output of ``block12.rep[5]``
    E25     ``block14_sepconv2_act``      2048      32         output of ``act4``
    ======  ============================  ========  =========  ========================================

    E23 and E24 are outputs of batch norm, without a ReLU. In both blocks, the max pooling and the addition of the skip
    connection come after this output.
    (Table 2 of the first paper prints 512 channels for E23; the network has 728.)

    In prediction with bfloat16 or float16, the parts with the largest rounding errors stay in float32: the stem, the
    first two blocks, and in the third block the skip and the depthwise convolutions. Each output of a depthwise
    convolution is a sum of only nine products, so the rounding errors hardly average out.

    The arguments are those of `create_encoder`, without ``img_size``.
    """

    float32_parts = ("stem", "entry", "block3.skip", "block3.body.1.conv1", "block3.body.4.conv1")
    #: In int8 files these parts stay in float32, too: most of the remaining error comes from block3.
    int8_float32_parts = ("block3",)

    def __init__(
        self,
        *,
        pretrained: bool = False,
        weights: str | Path | None = None,
        in_chans: int = 3,
        cache_dir: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        name = "legacy_xception"
        file = read_weights_file(weights, name, in_chans=in_chans) if weights else None
        overlay = {"state_dict": file.state} if file else locate_weights(name, cache_dir) if pretrained else {}
        if pretrained or file:
            kwargs |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
        net: Any = timm.create_model(name, num_classes=0, in_chans=in_chans, cache_dir=cache_dir, **kwargs)
        if file:
            file.check(net)
        #: Where the pretrained weights came from; "" for random weights.
        self.weights_from = file.origin if file else weights_origin(name, overlay) if pretrained else ""
        self.map_names = ["block3.rep.5", "block12.rep.5", "act4"]
        self.channels = [728, 1024, 2048]
        self.reductions = [8, 16, 32]
        self.first_conv: tuple[str, ...] = ("stem.0",)
        self.mean: tuple[float, ...] = tuple(net.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(net.pretrained_cfg["std"])
        self.stem = nn.Sequential(net.conv1, net.bn1, net.act1, net.conv2, net.bn2, net.act2)
        self.entry = nn.Sequential(net.block1, net.block2)
        self.block3 = TappedBlock(net.block3)
        self.middle = nn.Sequential(*(getattr(net, f"block{i}") for i in range(4, 12)))
        self.block12 = TappedBlock(net.block12)
        self.exit = nn.Sequential(net.conv3, net.bn3, net.act3, net.conv4, net.bn4, net.act4)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return maps (N, 728, H/8, W/8), (N, 1024, H/16, W/16), (N, 2048, H/32, W/32) of x (N, in_chans, H, W)."""
        e23, x = self.block3(self.entry(self.stem(x)))
        e24, x = self.block12(self.middle(x))
        return [e23, e24, self.exit(x)]


class TappedBlock(nn.Module):
    """A strided Xception block that also returns the input of its max pooling."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        # timm's block: twice ReLU, separable convolution and batch norm, then max pooling; in parallel, a skip.
        *body, pool = block.rep
        self.body = nn.Sequential(*body)
        self.pool = pool
        self.skip = nn.Sequential(block.skip, block.skipbn)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooling's input, (N, C, H, W), and the block's output, (N, C, H/2, W/2); x is (N, C_in, H, W)."""
        tap = self.body(x)
        return tap, self.pool(tap) + self.skip(x)
