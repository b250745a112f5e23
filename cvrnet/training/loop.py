"""The training loop: one model, read from top to bottom (v1 section 2.3, v2 section 5.2)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import accelerate
import numpy as np
import timm.optim
import torch
import torch.nn.functional as F
from accelerate.utils import broadcast, gather_object
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cvrnet.data import Augmentation, ImageCache, Preprocessing, Record
from cvrnet.devices import check_launch, select_device, select_precision
from cvrnet.errors import UserError
from cvrnet.files import atomic_write, damaged_files, write_csv
from cvrnet.metrics import classification_scores
from cvrnet.runs.checkpoint import save_checkpoint
from cvrnet.runs.layout import HISTORY, STATE
from cvrnet.training.batches import CachedImages, epoch_batches
from cvrnet.training.config import TrainConfig
from cvrnet.training.model import create_for_training


@dataclass
class Progress:
    """What a caller may want to hear of while a model trains; every callable is called on the main process only.

    Attributes:
        start: Called before an epoch with its number, its number of images and the history so far.
        step: Called after each optimiser step with its number of images and a function that gives the mean loss of the
            epoch so far (on a GPU, calling it waits for the device).
        end: Called after an epoch with its row of history.csv.
    """

    start: Callable[[int, int, list[dict[str, Any]]], None] = lambda epoch, images, history: None
    step: Callable[[int, Callable[[], float]], None] = lambda images, loss: None
    end: Callable[[dict[str, Any]], None] = lambda row: None


@dataclass
class State:
    """What a resumed training needs besides the weights: where it is, and what it has seen."""

    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def make_accelerator(config: TrainConfig) -> accelerate.Accelerator:
    """An accelerator for the config's device and precision; under ``accelerate launch``, one of several processes.

    Raises:
        UserError: ``accelerate launch`` was asked for several processes but started one, as it does without several
            GPUs unless ``--multi_gpu`` is given.
    """
    check_launch()
    device = select_device(config.device)
    precision = select_precision(config.amp, device)
    return accelerate.Accelerator(cpu=device.type == "cpu", mixed_precision="no" if precision == "fp32" else precision)


def fit(
    config: TrainConfig,
    train: Sequence[Record],
    val: Sequence[Record],
    classes: Sequence[str],
    cache: ImageCache,
    folder: Path,
    *,
    accelerator: accelerate.Accelerator | None = None,
    progress: Progress | None = None,
) -> State:
    """Train one model; the best epoch's weights are left in the folder, in timm's format.

    A training that was interrupted (its ``training-state.pt`` is in the folder) goes on after its last whole epoch,
    and ends with the same weights as one that was not.

    With several processes (``accelerate launch``), each takes its part of every batch; the gradient is that of the
    whole batch. Batch norm normalises with each part's own statistics, and process 0's running statistics are kept.

    Args:
        config: The protocol.
        train: Training images, in the cache.
        val: Validation images, in the cache.
        classes: Class names in the order of the logits.
        cache: Decoded images of the config's size.
        folder: Gets config.json, model.safetensors, history.csv and, while training goes on, training-state.pt.
        accelerator: From :func:`make_accelerator`.
        progress: Whom to tell.

    Returns:
        The final state, with the history.
    """
    accelerator = accelerator or make_accelerator(config)
    progress = progress or Progress()
    device, world = accelerator.device, accelerator.num_processes

    torch.manual_seed(config.seed)
    model = create_for_training(config, len(classes)).to(device).to(memory_format=torch.channels_last)
    preprocessing = Preprocessing.from_model(model)
    fused: dict[str, Any] = (
        {"fused": True} if config.optimizer in ("adam", "adamw") else {}
    )  # one pass over the weights, also on CPUs
    optimizer = timm.optim.create_optimizer_v2(model, opt=config.optimizer, lr=config.lr, **fused)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="max",
        factor=config.lr_factor,
        patience=config.lr_patience - 1,  # Keras drops the rate after so many epochs, torch one later
        threshold=0.0,
        threshold_mode="abs",
    )
    state = _restore(folder / STATE, model, optimizer, plateau)
    network, optimizer = accelerator.prepare(model, optimizer)

    train_set = CachedImages(train, classes, cache, _augmentation(config), config.seed)
    val_set = CachedImages(val, classes, cache)
    weights = class_weights(train_set.labels, len(classes)).to(device) if config.class_weights else None

    while state.epoch < config.epochs and state.epoch - state.best_epoch < config.patience:
        epoch = train_set.epoch = state.epoch + 1
        started = time.perf_counter()
        parts = world * config.grad_accum
        batches = epoch_batches(len(train), config.batch_size, parts, config.seed, epoch)
        mine = [part for batch in batches for part in _share(batch, accelerator.process_index, config.grad_accum)]
        loader = iter(DataLoader(train_set, batch_sampler=mine, num_workers=config.num_workers))
        if accelerator.is_main_process:
            progress.start(epoch, len(train), state.history)

        torch.manual_seed(config.seed + epoch * world + accelerator.process_index)
        network.train()
        total, seen = torch.zeros((), device=device), 0
        for batch in batches:
            size = sum(len(part) for part in batch)
            for micro in range(config.grad_accum):
                images, labels, _ = next(loader)
                x = preprocessing.normalize(images.to(device, non_blocking=True))
                y = labels.to(device, non_blocking=True)
                with accelerator.autocast():
                    logits = network(x.contiguous(memory_format=torch.channels_last))
                losses = F.cross_entropy(logits.float(), y, reduction="none")
                if weights is not None:
                    losses = losses * weights[y]
                # Keras divides the weighted sum by the number of images; processes' gradients are averaged: * world.
                loss = losses.sum() / size
                last = micro == config.grad_accum - 1
                with contextlib.nullcontext() if last else accelerator.no_sync(network):
                    accelerator.backward(loss * world)
                total += loss.detach() * size
            optimizer.step()
            optimizer.zero_grad()
            seen += size
            if accelerator.is_main_process:
                progress.step(size, lambda total=total, seen=seen: float(total) * world / seen)  # type: ignore[misc]
        train_loss = float(accelerator.reduce(total)) / seen
        if not math.isfinite(train_loss):
            raise UserError(
                f"the loss is {train_loss} in epoch {epoch}; try a lower lr than {config.lr}, or amp='fp32'"
            )

        for buffer in model.buffers():
            broadcast(buffer)
        probabilities = _predict_shared(accelerator, model, preprocessing, val_set, config)
        scores = classification_scores(val_set.labels, probabilities, list(classes))
        row: dict[str, Any] = {
            "epoch": epoch,
            "lr": optimizer.param_groups[0]["lr"],
            "train_loss": train_loss,
            "val_loss": scores["log_loss"],
            "val_accuracy": scores["accuracy"],
            "val_f1_macro": scores["macro"]["f1"],
            "seconds": round(time.perf_counter() - started, 3),
        }
        quality = row["val_accuracy"] if config.monitor == "val_accuracy" else -row["val_loss"]
        plateau.step(quality)
        row["best"] = int(quality > state.best)
        state.history.append(row)
        state.epoch = epoch
        if row["best"]:
            state.best, state.best_epoch = quality, epoch
        if accelerator.is_main_process:
            if row["best"]:
                save_checkpoint(model, folder, classes)
            _store(folder / STATE, model, optimizer, plateau, state)
            write_csv(folder / HISTORY, state.history)
            progress.end(row)
        accelerator.wait_for_everyone()
    return state


def class_weights(labels: Sequence[int], num_classes: int) -> Tensor:
    """Weight of class j: N_max / N_j, so that the minority counts as much as the majority; 0 for an absent class.

    >>> class_weights([0, 0, 0, 0, 1, 1], 2)
    tensor([1., 2.])
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_classes).float()
    return torch.where(counts > 0, counts.max() / counts.clamp(min=1), 0.0)


def _predict_shared(
    accelerator: accelerate.Accelerator,
    model: nn.Module,
    preprocessing: Preprocessing,
    dataset: CachedImages,
    config: TrainConfig,
) -> NDArray[np.float64]:
    """Every image's probabilities, (N, C), computed by all processes together; each process gets all of them."""
    mine = list(range(accelerator.process_index, len(dataset), accelerator.num_processes))
    batches = [mine[i : i + 2 * config.batch_size] for i in range(0, len(mine), 2 * config.batch_size)]
    rows: list[tuple[int, list[float]]] = []
    model.eval()
    with torch.inference_mode(), accelerator.autocast():
        for images, _, indices in DataLoader(dataset, batch_sampler=batches, num_workers=config.num_workers):
            x = preprocessing.normalize(images.to(accelerator.device, non_blocking=True))
            logits = model(x.contiguous(memory_format=torch.channels_last))
            rows += zip(indices.tolist(), logits.double().softmax(-1).tolist(), strict=True)
    table = dict(gather_object(rows))
    return np.array([table[i] for i in range(len(dataset))])


def _share(batch: list[list[int]], process: int, parts: int) -> list[list[int]]:
    return batch[process * parts : (process + 1) * parts]


def _augmentation(config: TrainConfig) -> Augmentation:
    return Augmentation(
        rotation_p=config.rotation_p, shift_p=config.shift_p, hflip_p=config.hflip_p, vflip_p=config.vflip_p
    )


def _store(path: Path, model: nn.Module, optimizer: Any, plateau: Any, state: State) -> None:
    with atomic_write(path) as temporary:
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "plateau": plateau.state_dict(),
                "state": vars(state),
            },
            temporary,
        )


def _restore(path: Path, model: nn.Module, optimizer: Any, plateau: Any) -> State:
    if not path.is_file():
        return State()
    try:
        with damaged_files(path):
            saved = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            plateau.load_state_dict(saved["plateau"])
            return State(**saved["state"])
    except (UserError, RuntimeError, UnpicklingError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged; without it, the training begins anew") from error
