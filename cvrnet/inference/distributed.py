"""Predict with several processes: each process predicts some of the files, and the main process collects the results.

``accelerate launch`` (extra ``train``) starts the processes, on one or more machines.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from cvrnet.devices import select_device
from cvrnet.errors import UserError
from cvrnet.inference.predictor import Prediction, Predictor

PORTION = 8  # number of batches that each process predicts between two exchanges of predictions


class SharedPrediction:
    """One of the processes that ``accelerate launch`` started.

    With ``cuda``, each process has its own GPU. The main process (`is_main`) collects the predictions.
    """

    def __init__(self, device: str = "auto") -> None:
        self._state = PartialState(cpu=select_device(device).type == "cpu")
        self.device = str(self._state.device)
        self.is_main: bool = self._state.is_main_process

    def stream(
        self, predictor: Predictor, paths: Sequence[Path], *, batch_size: int = 8, **options: Any
    ) -> Iterator[Prediction]:
        """Predict files as :meth:`Predictor.stream` does, but predict only every n-th file in each of n processes.

        The main process yields the predictions of all files, in their order and in constant memory; the other processes
        yield nothing. All processes must get equal lists of files.
        """
        rank, world = self._state.process_index, self._state.num_processes
        mine = predictor.stream(paths[rank::world], batch_size=batch_size, **options)
        expected = iter(paths)
        # Every process takes part in each exchange; an exchange without predictions ends the loop in all of them.
        while any(parts := gather_object([list(itertools.islice(mine, PORTION * batch_size))])):
            turns = itertools.chain.from_iterable(itertools.zip_longest(*parts)) if self.is_main else ()
            for prediction in turns:
                if prediction is not None:
                    if prediction.path != (path := next(expected, None)):
                        raise UserError(
                            f"the processes have different files: {prediction.path}, expected {path}; give every "
                            "process the same paths"
                        )
                    yield prediction

    def close(self) -> None:
        """Wait for the other processes, then end the connection to them."""
        self._state.wait_for_everyone()
        self._state.destroy_process_group()
