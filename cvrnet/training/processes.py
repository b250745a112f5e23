"""The processes that train together: usually one; several under ``accelerate launch``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather_object, reduce
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cvrnet.devices import select_device, select_precision
from cvrnet.launch import check_launch


class Processes:
    """This process's device, its precision (number format) and its index (rank) among the processes.

    A notebook can train several times, with different number formats and devices. So only accelerate's
    ``PartialState`` is used: ``accelerate.Accelerator`` would fix the number format until the Python process ends.

    `select_device` and `select_precision` choose device and number format. If several processes use GPUs, each
    process gets its own GPU.

    Raises:
        UserError: Several processes were requested, but only one was started (see `check_launch`).
    """

    def __init__(self, device: str = "auto", amp: str = "auto") -> None:
        check_launch()
        chosen = select_device(device)
        # While the main process decodes, audits and evaluates, the others may wait longer than NCCL's limit (10 min).
        self._state = PartialState(cpu=chosen.type == "cpu", timeout=timedelta(days=7))
        self.count: int = self._state.num_processes
        self.index: int = self._state.process_index
        self.is_main: bool = self._state.is_main_process  #: process 0 writes files and reports progress
        self.device: torch.device = self._state.device if self.count > 1 else chosen  # pyrefly: ignore[bad-assignment]
        self.precision = select_precision(amp, self.device)

    def wait(self) -> None:
        """Wait until every process has reached this call."""
        self._state.wait_for_everyone()

    def main_first(self) -> AbstractContextManager[None]:
        """Return a context that runs its block on the main process first; the other processes wait until it is done."""
        return self._state.main_process_first()

    def parallel(self, model: nn.Module) -> nn.Module:
        """Wrap a model so that each backward pass averages the gradients over the processes."""
        if self.count == 1:
            return model
        return DistributedDataParallel(model, [self.device.index] if self.device.type == "cuda" else None)

    def without_sync(self, network: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which backward passes only add up gradients, and do not average them over processes."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def total(self, value: Tensor) -> float:
        """Return the sum of ``value`` over all processes; every process gets this sum."""
        return float(reduce(value, "sum"))

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the main process's buffers (batch norm's running statistics) to every other process."""
        for buffer in model.buffers():
            broadcast(buffer)

    def gather(self, items: Sequence[Any]) -> list[Any]:
        """Return the items of all processes in one list; every process gets this list."""
        return list(gather_object(list(items)))
