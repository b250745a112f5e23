"""Run the networks of a model in PyTorch, to compute every head's logits for a batch of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cvrnet.devices import compile_failed, kernels, select_device, select_precision
from cvrnet.errors import UserError
from cvrnet.heads.novelty import NoveltyHead
from cvrnet.inference.head_logits import HeadLogits, averages_probabilities
from cvrnet.inference.packed_convolutions import pack_convolutions
from cvrnet.runs.checkpoint import checkpoint_task, checkpoint_unit, refuse_bags, shared_settings

Answer = tuple[NDArray[np.float64], NDArray[np.float64]]


class TorchEngine:
    """Runs one network, or the networks of all folds, in PyTorch, for `cvrnet.Predictor`.

    The arguments are those of `cvrnet.Predictor`.

    Raises:
        UserError: The models differ in classes or preprocessing, or the device or dtype is not available.
    """

    def __init__(self, models: Sequence[nn.Module], device: str, dtype: str, compile: bool | str) -> None:
        self.device = select_device(device)
        self.precision = select_precision(dtype, self.device)
        self.classes, self.preprocessing = shared_settings(models)
        self.unit, self.task = checkpoint_unit(models[0]), checkpoint_task(models[0])
        self.models: list[Any] = [m.eval().to(self.device).to(memory_format=torch.channels_last) for m in models]
        #: Each model's head that computes how far an image is from the training images; empty if a model lacks it.
        self.novelty: list[NoveltyHead] = []
        self.compile = compile
        cfg: Any = models[0].pretrained_cfg
        self.name = str(cfg.get("architecture"))  #: the model's name in messages

    @property
    def quantiles(self) -> list[NDArray[np.float64]]:
        """For each fold, quantiles of how far its validation images are from its training images."""
        return [head.quantiles.double().cpu().numpy() for head in self.novelty]

    @property
    def averages_probabilities(self) -> bool:
        """Whether the models average their heads' probabilities, so that each head's probabilities can be requested."""
        return all(averages_probabilities(model) for model in self.models)

    @property
    def num_heads(self) -> int:
        """Number of heads of each network; raises UserError if a model does not average its heads' probabilities."""
        for model in self.models:
            if not averages_probabilities(model):
                name = model.pretrained_cfg["architecture"]
                raise UserError(
                    f"{name} gives no probabilities of heads; expected a CVR-Net that averages its heads' probabilities"
                )
        return len(self.models[0].groups)

    @property
    def ahead(self) -> int:
        """Number of further batches to start before waiting for a result: a GPU computes while the CPU loads images."""
        return 1 if self.device.type == "cuda" else 0

    def __call__(self, pixels: NDArray[np.uint8], size: int = 0) -> Answer:
        """Predict images, uint8 (N, C, H, W), in the size of the preprocessing.

        With compiled networks, a batch of fewer images than `size` is filled up, because the network would be compiled
        again for another number of images.

        Returns:
            Logits (folds, heads, N, classes), where a model without heads counts as one head; and distances from the
            training images (N, folds), or (N, 0) without ``novelty``.
        """
        return self.start(pixels, size)()

    def start(self, pixels: NDArray[np.uint8], size: int = 0) -> Callable[[], Answer]:
        """Start predicting images; return a function that waits for the result of `__call__` and returns it."""
        refuse_bags(self.unit, "this function")
        images, count = torch.from_numpy(pixels), len(pixels)
        if self.compile and count < size:
            images = torch.cat([images, images[-1:].expand(size - count, *images.shape[1:])])
        if self.device.type == "cuda":
            images = images.pin_memory()
        x = self.preprocessing.normalize(images.to(self.device, non_blocking=True))
        x = x.contiguous(memory_format=torch.channels_last)
        try:
            with torch.inference_mode(), kernels(self.device, self.precision):
                # Cloned, because CUDA graphs write the next output to the same memory.
                answers = [[part.clone() for part in network(x)] for network in self._networks]
            logits, distances = torch.stack([a[0] for a in answers]), torch.cat([a[1] for a in answers], 1)
        except UserError:
            raise
        except Exception as error:  # the network's own code may raise anything
            if self.compile:
                raise compile_failed(error, "predict without compilation") from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{self.name} cannot predict images of size {tuple(x.shape[1:])}: {reason}") from error
        on_gpu = self.device.type == "cuda"
        found = [part.to("cpu", non_blocking=on_gpu) for part in (logits[:, :, :count], distances[:count])]
        copied = torch.cuda.current_stream(self.device).record_event() if on_gpu else None

        def wait() -> Answer:
            if copied is not None:
                copied.synchronize()
            return found[0].double().numpy(), found[1].double().numpy()

        return wait

    @cached_property
    def _networks(self) -> list[Any]:
        """The networks for prediction; they are made at the first prediction, because explanations do not need them."""
        novelty: Sequence[NoveltyHead | None] = self.novelty or [None] * len(self.models)
        networks: list[Any] = [
            HeadLogits(model, self.precision, head) for model, head in zip(self.models, novelty, strict=True)
        ]
        if not self.compile:
            for network, model in zip(networks, self.models, strict=True):
                if self.device.type == "cpu" and network.model is not model:
                    pack_convolutions(network.model)  # a copy; explanations need the gradients of the model itself
            return networks
        mode = self.compile if isinstance(self.compile, str) else None
        # On a CPU, freezing makes the weights constants, and the compiler lays them out for its kernels.
        freeze = mode is None and self.device.type == "cpu"
        options: Any = {"options": {"freezing": True}} if freeze else {"mode": mode}
        return [torch.compile(network, dynamic=False, **options) for network in networks]
