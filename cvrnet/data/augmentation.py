"""Random rotations, shifts and flips of training images, drawn from one seed for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from cvrnet.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """Rotates, shifts and flips the resized image at random (v2 section 5.2).

    Neither paper says how far images are turned and shifted, nor what fills the empty part of the frame. We chose at
    most 15 degrees and a tenth of the width or height, and repeat the pixels at the edge, as Keras does by default. The
    interpolation is nearest neighbour, so no new grey value appears. v2 gives both flips "probability 1", which we read
    as Keras's random flip: every second image.
    """

    rotation_p: float = 0.45  #: probability that the image is turned
    rotation_degrees: float = 15.0  #: the largest angle, to either side
    shift_p: float = 0.2  #: probability that the image is moved sideways; the same, drawn separately, for up or down
    shift: float = 0.1  #: the largest shift, as a fraction of the image's width or height
    hflip_p: float = 0.5  #: probability that left and right are exchanged
    vflip_p: float = 0.5  #: probability that top and bottom are exchanged

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            most = 180 if name == "rotation_degrees" else 1
            if not 0 <= value <= most:
                raise UserError(f"{name} {value} is not possible: expected 0 to {most}")

    def __call__(self, image: Tensor, seed: int | Sequence[int]) -> Tensor:
        """Return the image, uint8 (C, H, W), with random changes; the result may share memory with the input.

        The seed is one non-negative number of any size, or several, such as the run's seed, the epoch and the image's
        index. The same seed and image size give the same changes in any thread, worker or process. Global random states
        are neither used nor changed.
        """
        draw = np.random.default_rng(seed)
        # Always the same draws in the same order: if one probability is set to 0, the other changes stay the same.
        happens = draw.random(5).tolist()
        angle, across, down = draw.uniform(-1, 1, 3).tolist()
        angle *= math.radians(self.rotation_degrees) * (happens[0] < self.rotation_p)
        across *= self.shift * (happens[1] < self.shift_p)
        down *= self.shift * (happens[2] < self.shift_p)
        if angle or across or down:
            image = _turn_and_move(image, angle, across, down)
        flips = [axis for axis, flip in ((-1, happens[3] < self.hflip_p), (-2, happens[4] < self.vflip_p)) if flip]
        return image.flip(flips) if flips else image


def _turn_and_move(image: Tensor, angle: float, across: float, down: float) -> Tensor:
    """The image, turned anticlockwise about its centre (radians), then moved right and down (fractions of its size)."""
    height, width = image.shape[-2:]
    cos, sin, aspect = math.cos(angle), math.sin(angle), width / height
    # affine_grid maps each pixel of the result to its place in the image, so this is the inverse movement. Both axes
    # go from -1 to 1 whatever the image's shape, hence the aspect ratio and the factors of 2.
    matrix = torch.tensor(
        [
            [cos, -sin / aspect, -2 * (across * cos - down * sin / aspect)],
            [sin * aspect, cos, -2 * (across * sin * aspect + down * cos)],
        ]
    )
    grid = affine_grid(matrix[None], [1, *image.shape], align_corners=False)
    moved = grid_sample(image[None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    return moved[0].to(image.dtype)
