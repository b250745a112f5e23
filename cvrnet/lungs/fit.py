"""Train the network that finds the lungs, from pictures with masks (extra ``lungs``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor

from cvrnet.devices import autocast, select_device, select_precision
from cvrnet.lungs.segmenter import Segmenter, create_network, prepare

BATCH = 8
RATE, ENCODER_RATE, DECAY = 2e-3, 2e-4, 1e-2
TURN, ZOOM, SHIFT = 15.0, 0.2, 0.1  # the turn in degrees; zoom and shift as shares of the picture's size


def fit_segmenter(
    pictures: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.uint8]],
    *,
    epochs: int,
    seed: int = 0,
    device: str = "auto",
    amp: str = "auto",
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Segmenter:
    """Train a network on grey pictures (size, size) and their masks (size, size), whose values are 0 or 255.

    The loss is cross-entropy plus Dice (Milletari et al. 2016). The learning rate of the encoder is a tenth of the
    decoder's, and both fall along half a cosine. In each epoch, every picture is turned, zoomed, shifted and mirrored
    at random, and its brightness, contrast, gamma and noise are varied. On one machine, the same arguments give the
    same network.

    ``device`` and ``amp`` are as in `cvrnet.devices`. ``progress`` is called after each epoch with the number of epochs
    done and the total number of epochs.
    """
    place = select_device(device)
    precision = select_precision(amp, place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create_network().to(place, memory_format=torch.channels_last).train()
        groups = [
            {"params": list(network.encoder.parameters()), "lr": ENCODER_RATE},
            {"params": [*network.decoder.parameters(), *network.segmentation_head.parameters()], "lr": RATE},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
        steps = epochs * math.ceil(len(pictures) / BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        dice = DiceLoss("binary")
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.from_numpy(np.stack(each))[:, None] for each in (pictures, masks))
        for epoch in range(1, epochs + 1):
            order = torch.randperm(len(x), generator=generator)
            for rows in order.split(BATCH):
                if len(rows) == 1:  # at the smallest size, one image's deepest maps have too few pixels for batch norm
                    rows = torch.cat([rows, order[:1]])
                pixels, wanted = augment(x[rows].float(), y[rows].float() / 255, generator)
                inputs = prepare(pixels).to(place).contiguous(memory_format=torch.channels_last)
                wanted = (wanted > 0.5).float().to(place)
                with autocast(place, precision):
                    logits = network(inputs)
                logits = logits.float()
                loss = F.binary_cross_entropy_with_logits(logits, wanted) + dice(logits, wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            progress(epoch, epochs)
    return Segmenter(network, x.shape[-1])


def augment(pixels: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augment pictures (N, 1, H, W) in 0..255 and their masks in 0..1 at random; a picture and its mask move alike."""
    count = len(pixels)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle, zoom = torch.deg2rad(draw(-TURN, TURN)), draw(1 - ZOOM, 1 + ZOOM)
    mirror = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rows = [torch.stack([cos * mirror, -sin, 2 * draw(-SHIFT, SHIFT)], 1)]
    rows += [torch.stack([sin * mirror, cos, 2 * draw(-SHIFT, SHIFT)], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    both = F.grid_sample(torch.cat([pixels / 255, masks], 1), grid, align_corners=False)
    moved, wanted = both[:, :1], both[:, 1:]
    gamma, contrast, brightness, noise = (
        part.view(-1, 1, 1, 1) for part in (draw(-0.5, 0.5).exp(), draw(0.7, 1.3), draw(-0.15, 0.15), draw(0, 0.06))
    )
    moved = moved.clamp(0, 1) ** gamma * contrast + brightness
    moved = moved + noise * torch.randn(moved.shape, generator=generator)
    return 255 * moved.clamp(0, 1), wanted
