"""Prediction by several processes, on one machine or many: the files are shared out, one process gets all answers.

Needs accelerate (extra ``train``), whose launcher starts the processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from cvrnet.devices import select_device
from cvrnet.errors import UserError
from cvrnet.inference.predictor import Prediction, Predictor

PORTION = 8
"""Batches that each process works on between two exchanges of answers."""


class SharedPrediction:
    """This process's place among those that ``accelerate launch`` started.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``; each process takes its own of several GPUs.

    Attributes:
        device: This process's.
        is_main: Whether this process gets the answers.
    """

    def __init__(self, device: str = "auto") -> None:
        self._state = PartialState(cpu=select_device(device).type == "cpu")
        self.device = str(self._state.device)
        self.is_main: bool = self._state.is_main_process

    def stream(
        self,
        predictor: Predictor,
        paths: Callable[[], Iterable[Path]],
        *,
        batch_size: int = 8,
        heads: bool = False,
        window: str = "",
    ) -> Iterator[Prediction]:
        """As :meth:`Predictor.stream`, with the work of every process: each takes its turn in the list of files.

        Args:
            predictor: The model, on this process's device.
            paths: Gives the files, the same in every process.
            batch_size: Images that each network sees at once.
            heads: Give each head's own probabilities too.
            window: Of CTs in DICOM, instead of the files' own.

        Yields:
            On the main process the predictions of all files, in their order and in constant memory; nothing elsewhere.

        Raises:
            UserError: The processes do not see the same files.
        """
        rank, world = self._state.process_index, self._state.num_processes
        given: Any = {"batch_size": batch_size, "heads": heads, "window": window}
        mine = predictor.stream(itertools.islice(paths(), rank, None, world), **given)
        expected = iter(paths() if self.is_main else ())
        while any(parts := gather_object([list(itertools.islice(mine, PORTION * batch_size))])):
            if not self.is_main:
                continue
            for turn in itertools.zip_longest(*parts):
                for prediction in turn:
                    if prediction is not None:
                        _check(prediction, next(expected, None))
                        yield prediction

    def close(self) -> None:
        """Leave the other processes."""
        self._state.wait_for_everyone()
        self._state.destroy_process_group()


def _check(prediction: Prediction, expected: Path | None) -> None:
    if prediction.path != expected:
        raise UserError(f"the processes do not see the same files: {prediction.path} where {expected} was expected")
