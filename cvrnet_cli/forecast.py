"""Estimate, after the first batches on a CPU, how long training takes."""

import time
from typing import Any

from cvrnet_cli.output import say

BATCHES, SECONDS = 3, 2.0  # least number of batches, and least number of seconds, that are measured


class Forecast:
    """Prints once how long an epoch and the whole training take.

    With ``--freeze N``, it prints this once for each of the two stages: heads only, then the whole network.

    On a GPU, or with ``--freeze all``, it prints nothing. At least `BATCHES` batches and `SECONDS` seconds are
    measured. The first batch is not measured, because it also prepares memory and kernels. If the epoch ends too early
    for this, its whole duration is used. ``config`` is the ``TrainConfig``.
    """

    def __init__(self, config: Any) -> None:
        from cvrnet.devices import select_device

        self.config = config
        self.useful = config.freeze != "all" and select_device(config.device).type == "cpu"
        self.wanted = self.useful

    def start(self, epoch: int, images: int) -> None:
        """Begin an epoch; ``images`` is its number of images."""
        self.epoch, self.images, self.steps, self.seen = epoch, images, 0, 0
        self.wanted |= self.useful and epoch == self.config.freeze + 1  # the encoders begin to train

    def step(self, images: int) -> None:
        """Count the images of a batch, and print the estimate once enough batches were measured."""
        if not self.wanted:
            return
        self.steps += 1
        if self.steps == 1:
            self.started = time.perf_counter()
            return
        self.seen += images
        seconds = time.perf_counter() - self.started
        if self.steps > BATCHES and seconds >= SECONDS:
            self._say(self.images * seconds / self.seen)

    def end(self, seconds: float) -> None:
        """End an epoch that took ``seconds``."""
        if self.wanted:
            self._say(seconds)

    def _say(self, seconds: float) -> None:
        self.wanted = False
        freeze, epochs = self.config.freeze, self.config.epochs
        heads_only = self.epoch <= freeze
        left = (min(freeze, epochs) if heads_only else epochs) - self.epoch + 1
        stage = " of the heads" if heads_only else ""
        line = (
            f"On this CPU an epoch{stage} takes about {_duration(seconds)}, {left} epochs {_duration(left * seconds)}"
        )
        if left * seconds > 600:
            line += "; --freeze all trains only the heads of a CVR-Net, which takes seconds"
        say(line)


def _duration(seconds: float) -> str:
    """Return a duration as text, rounded.

    >>> _duration(42.4), _duration(720), _duration(10_000)
    ('42 s', '12 min', '2.8 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
