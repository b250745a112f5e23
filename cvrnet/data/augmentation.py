"""Random changes to the training images, settled by a seed for each image and nothing else."""

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
    """Rotation, shifts and flips of the resized image (v2 section 5.2).

    Neither paper says how far images are turned and shifted, nor what comes in where they leave the frame: 15 degrees
    and a tenth are ours, and the pixels at the edge are repeated, as Keras does by default. Nearest-neighbour
    interpolation: no new grey value appears. v2 gives both flips "probability 1", read here as Keras's random flip.

    Attributes:
        rotation_p: probability that the image is turned.
        rotation_degrees: by at most so much, to either side.
        shift_p: probability that it is moved sideways, and, drawn separately, up or down.
        shift: by at most this part of its width or height.
        hflip_p: probability that left and right are exchanged.
        vflip_p: probability that top and bottom are exchanged.
    """

    rotation_p: float = 0.45
    rotation_degrees: float = 15.0
    shift_p: float = 0.2
    shift: float = 0.1
    hflip_p: float = 0.5
    vflip_p: float = 0.5

    def __post_init__(self) -> None:
        for name in ("rotation_p", "shift_p", "hflip_p", "vflip_p", "shift"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)} is not possible: expected 0 to 1")
        if not 0 <= self.rotation_degrees <= 180:
            raise UserError(f"rotation_degrees {self.rotation_degrees} is not possible: expected 0 to 180")

    @classmethod
    def notebook(cls) -> Augmentation:
        """Both flips and nothing else, as in the authors' notebook."""
        return cls(rotation_p=0, shift_p=0)

    @classmethod
    def none(cls) -> Augmentation:
        """No change at all."""
        return cls(rotation_p=0, shift_p=0, hflip_p=0, vflip_p=0)

    def __call__(self, image: Tensor, seed: int | Sequence[int]) -> Tensor:
        """The changed image.

        Args:
            image: uint8, of shape (C, H, W).
            seed: what the changes are drawn from: a number of any size that is not negative, or several, such as the
                run's seed, the epoch and the image's index. The same seed and image size give the same changes in any
                thread, worker or process; global random states are neither used nor touched.

        Returns:
            A tensor of the same shape and type. It may share memory with `image`.
        """
        draw = np.random.default_rng(seed)
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
    """Turned about its centre (in radians, anticlockwise), then moved right and down by parts of its width and height.

    `affine_grid` measures both axes from -1 to 1, hence the aspect ratio and the factors of 2.
    """
    height, width = image.shape[-2:]
    cos, sin, aspect = math.cos(angle), math.sin(angle), width / height
    matrix = torch.tensor(
        [
            [cos, -sin / aspect, -2 * (across * cos - down * sin / aspect)],
            [sin * aspect, cos, -2 * (across * sin * aspect + down * cos)],
        ]
    )
    grid = affine_grid(matrix[None], [1, *image.shape], align_corners=False)
    moved = grid_sample(image[None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    return moved[0].to(image.dtype)
