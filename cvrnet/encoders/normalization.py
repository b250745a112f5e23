"""Convert normalised images from one mean and standard deviation to another."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return a value for each channel: `values`, or their average if there are not as many values as channels."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


class ChannelAffine(nn.Module):
    """Replace one normalisation of the channels by another: ``x * scale + shift``.

    Args:
        mean_in, std_in: Channel means and standard deviations with which x was normalised.
        mean_out, std_out: Channel means and standard deviations with which the result is normalised.
        device, dtype: Device and dtype of the two buffers.
    """

    def __init__(
        self,
        mean_in: Sequence[float],
        std_in: Sequence[float],
        mean_out: Sequence[float],
        std_out: Sequence[float],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        self.factors = [si / so for si, so in zip(std_in, std_out, strict=True)]
        self.offsets = [(mi - mo) / so for mi, mo, so in zip(mean_in, mean_out, std_out, strict=True)]
        shape = (1, len(self.factors), 1, 1)
        for name in ("scale", "shift"):
            self.register_buffer(name, torch.empty(shape, device=device, dtype=dtype), persistent=False)
        self.init_non_persistent_buffers()

    @torch.jit.ignore
    def init_non_persistent_buffers(self) -> None:
        """Fill the buffers, which are not in checkpoints.

        timm's ``reinit_non_persistent_buffers`` also calls this, for models that were made on the meta device.
        """
        for buffer, values in ((self.scale, self.factors), (self.shift, self.offsets)):
            buffer.copy_(torch.tensor(values, dtype=torch.float64).view_as(buffer))

    def forward(self, x: Tensor) -> Tensor:
        """Convert images (N, C, H, W) to the other normalisation."""
        return x * self.scale + self.shift
