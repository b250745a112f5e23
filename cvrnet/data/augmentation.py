"""Random rotations, shifts and flips of training images. The changes of each image are drawn from its own seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cvrnet.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """Rotates, shifts and flips the resized image at random (second paper, section 5.2).

    The two CVR-Net papers (see docs/training.md) do not say how large a rotation or shift may be, or how to fill the
    part of the frame that the moved image leaves empty. The defaults are 15 degrees and a tenth of the width or height.
    The empty part is filled by repeating the pixels at the image's edge, as Keras does by default. The interpolation is
    nearest neighbour, so no new grey value appears. The second paper gives both flips "probability 1", which we read as
    Keras's random flip: each flip happens with probability 0.5.
    """

    rotation_p: float = 0.45  #: probability that the image is rotated
    rotation_degrees: float = 15.0  #: the largest angle, in either direction
    shift_p: float = 0.2  #: probability of a shift left or right and, drawn separately, of a shift up or down
    shift: float = 0.1  #: the largest shift, as a fraction of the image's width or height
    hflip_p: float = 0.5  #: probability that left and right are exchanged
    vflip_p: float = 0.5  #: probability that top and bottom are exchanged

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            most = 180 if name == "rotation_degrees" else 1
            if not 0 <= value <= most:
                raise UserError(f"{name} {value} is not possible: expected 0 to {most}")

    def draw(self, seed: int | Sequence[int]) -> Tensor:
        """Draw the changes of one image, (5,): angle (radians, anticlockwise), shift right, shift down, and two flips.

        Shifts are fractions of the width or height; the flips (left-right, top-bottom) are 0 or 1.

        The seed is one non-negative number of any size, or several, such as the run's seed, the epoch and the image's
        index. The same seed gives the same changes in any thread, worker or process. Global random states are neither
        used nor changed.
        """
        draw = np.random.default_rng(seed)
        # Always the same draws in the same order: if one probability is set to 0, the other changes stay the same.
        happens = draw.random(5).tolist()
        angle, across, down = draw.uniform(-1, 1, 3).tolist()
        angle *= math.radians(self.rotation_degrees) * (happens[0] < self.rotation_p)
        across *= self.shift * (happens[1] < self.shift_p)
        down *= self.shift * (happens[2] < self.shift_p)
        return torch.tensor([angle, across, down, happens[3] < self.hflip_p, happens[4] < self.vflip_p])

    def __call__(self, image: Tensor, seed: int | Sequence[int]) -> Tensor:
        """Return the image, (C, H, W), with the changes that `draw` gives for the seed."""
        return change(image[None], self.draw(seed)[None])[0]


def change(images: Tensor, changes: Tensor) -> Tensor:
    """Rotate, then shift, then flip images (N, C, H, W), and return them on the same device.

    Row i of ``changes``, (N, 5), is the result of `Augmentation.draw` for image i. Each pixel of the result is copied
    from one pixel of the image. The result is the same on every device, except where rounding decides between two
    neighbouring pixels.
    """
    if not changes.any():
        return images
    height, width = images.shape[-2:]
    # The changes are copied to the device only after the test above, because a test on a GPU would wait for the GPU.
    angle, across, down, flip_x, flip_y = (
        column.view(-1, 1, 1) for column in changes.to(images.device, non_blocking=True).T
    )
    # Coordinates of the result's pixels from the centre, with flips and shifts undone. Written as sums of products,
    # because a matrix product would be rounded to TF32 or bfloat16 on some devices.
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2).unsqueeze(1)
    x = x * (1 - 2 * flip_x) - across * width
    y = y * (1 - 2 * flip_y) - down * height
    # Undoing the rotation, too, gives coordinates in the input image.
    columns = angle.cos() * x - angle.sin() * y + (width - 1) / 2
    rows = angle.sin() * x + angle.cos() * y + (height - 1) / 2
    places = rows.round().long().clamp(0, height - 1) * width + columns.round().long().clamp(0, width - 1)
    flat = images.flatten(2)
    return flat.gather(2, places.flatten(1).unsqueeze(1).expand(-1, flat.shape[1], -1)).view_as(images)
