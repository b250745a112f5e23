"""The training loop: one model, read from top to bottom (v1 section 2.3, v2 section 5.2)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvrnet.data import Augmentation, ImageCache, Preprocessing, Record
from cvrnet.devices import autocast
from cvrnet.errors import UserError
from cvrnet.files import write_csv
from cvrnet.inference import Predictor
from cvrnet.inference.cached import join_batches, predict_cached
from cvrnet.metrics import classification_scores
from cvrnet.runs.checkpoint import save_checkpoint
from cvrnet.runs.layout import HISTORY, LAST_STATE, STATE
from cvrnet.training.batches import CachedImages, Schedule, image_loader
from cvrnet.training.config import TrainConfig
from cvrnet.training.model import create_for_training, smallest_part
from cvrnet.training.optimizers import create_optimizer
from cvrnet.training.processes import Processes
from cvrnet.training.state import State, restore_state, save_state


@dataclass
class Progress:
    """Training callbacks; called on the main process only."""

    #: Called before an epoch with its number, its number of images and the history so far.
    start: Callable[[int, int, list[dict[str, Any]]], None] = lambda epoch, images, history: None
    #: Called after each optimiser step with its number of images and a function that returns the mean loss of the epoch
    #: so far (on a GPU, calling it waits for the device).
    step: Callable[[int, Callable[[], float]], None] = lambda images, loss: None
    #: Called after an epoch with its row of history.csv.
    end: Callable[[dict[str, Any]], None] = lambda row: None


def fit(
    config: TrainConfig,
    train: Sequence[Record],
    val: Sequence[Record],
    classes: Sequence[str],
    cache: ImageCache,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> State:
    """Train one model, and save the best epoch's weights in the folder, in timm's format.

    The folder gets config.json, model.safetensors, history.csv and, while training goes on, training-state.pt. A
    training that was interrupted (its state is in the folder) continues after its last whole epoch, and one that ended
    at its number of epochs with a larger number; on a CPU both end with the same weights as one that never stopped.

    With several processes (``accelerate launch``), each takes its part of every batch; the gradient is that of the
    whole batch. Batch norm normalises with each part's own statistics, and process 0's running statistics are kept.

    ``cache`` holds the decoded images of both sets, in the config's size; ``classes`` has the order of the logits.
    Returns the final state, with the history.

    Raises:
        UserError: The loss is not finite, or the saved state is damaged.
    """
    progress = progress or Progress()
    processes = Processes(config.device, config.amp)
    torch.manual_seed(config.seed)
    model = create_for_training(config, len(classes)).to(processes.device).to(memory_format=torch.channels_last)
    optimizer = create_optimizer(model, config.optimizer, config.lr)
    plateau = _plateau(optimizer, config)
    # fp16 gradients underflow without scaling; for the other formats the scaler does nothing.
    scaler = torch.amp.GradScaler(processes.device.type, enabled=processes.precision == "fp16")
    parts = {"model": model, "optimizer": optimizer, "plateau": plateau, "scaler": scaler}
    state = restore_state(folder / (STATE if (folder / STATE).is_file() else LAST_STATE), parts)
    network, preprocessing = processes.parallel(model), Preprocessing.from_model(model)
    augmentation = Augmentation(
        rotation_p=config.rotation_p, shift_p=config.shift_p, hflip_p=config.hflip_p, vflip_p=config.vflip_p
    )
    images = CachedImages(train, classes, cache, augmentation, config.seed)
    weights = class_weights(images.labels, len(classes)).to(processes.device) if config.class_weights else None
    schedule = Schedule(len(train), config, processes.count, processes.index, smallest_part(model, config))
    with image_loader(images, schedule, config.num_workers) as loader:
        while state.epoch < config.epochs and state.epoch - state.best_epoch < config.patience:
            started = time.perf_counter()
            schedule.epoch = state.epoch + 1
            if processes.is_main:
                progress.start(schedule.epoch, len(train), state.history)
            steps = schedule.batches(), loader, preprocessing, weights
            train_loss = _train_epoch(config, schedule.epoch, network, *steps, optimizer, scaler, processes, progress)
            scores = _validate(config, model, val, classes, cache, processes)
            row: dict[str, Any] = {
                "epoch": schedule.epoch,
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
            state.epoch = schedule.epoch
            if row["best"]:
                state.best, state.best_epoch = quality, state.epoch
            if processes.is_main:
                if row["best"]:
                    save_checkpoint(model, folder, classes)
                # The state is written after the weights: a crash in between repeats the epoch, with the same result.
                save_state(folder / STATE, parts, state)
                write_csv(folder / HISTORY, state.history)
                progress.end(row)
            processes.wait()
    return state


def _train_epoch(
    config: TrainConfig,
    epoch: int,
    network: nn.Module,
    batches: Sequence[Sequence[Sequence[int]]],
    loader: Iterable[tuple[Tensor, Tensor]],
    preprocessing: Preprocessing,
    weights: Tensor | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    processes: Processes,
    progress: Progress,
) -> float:
    """Take every optimiser step of one epoch; return the mean loss of its images, and refuse one that is not finite.

    ``batches`` are those of all processes, ``loader`` gives this process's parts of them, ``weights`` are the classes'.
    """
    device, world, loaded = processes.device, processes.count, iter(loader)
    # Dropout depends only on the seed, epoch and process, so that a resumed training repeats it.
    torch.manual_seed(config.seed + epoch * world + processes.index)
    network.train()
    total, seen = torch.zeros((), device=device), 0
    for batch in batches:
        size = sum(len(part) for part in batch)
        for micro in range(config.grad_accum):
            pixels, labels = next(loaded)
            x = preprocessing.normalize(pixels.to(device, non_blocking=True))
            y = labels.to(device, non_blocking=True)
            with autocast(device, processes.precision):
                logits = network(x.contiguous(memory_format=torch.channels_last))
            losses = F.cross_entropy(logits.float(), y, reduction="none")
            if weights is not None:
                losses = losses * weights[y]
            # As Keras, divide the weighted sum by the number of images (torch's `weight=` divides by the weights' sum).
            loss = losses.sum() / size
            last = micro == config.grad_accum - 1
            with contextlib.nullcontext() if last else processes.without_sync(network):
                scaler.scale(loss * world).backward()  # DDP averages the gradients; the factor makes this a sum
            total += loss.detach() * size
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        seen += size
        if processes.is_main:
            progress.step(size, lambda total=total, seen=seen: float(total) * world / seen)  # type: ignore[misc]
    loss_mean = processes.total(total) / seen
    if not math.isfinite(loss_mean):
        raise UserError(f"the loss is {loss_mean} in epoch {epoch}; try a lower lr than {config.lr}, or amp='fp32'")
    return loss_mean


def _validate(
    config: TrainConfig,
    model: nn.Module,
    val: Sequence[Record],
    classes: Sequence[str],
    cache: ImageCache,
    processes: Processes,
) -> dict[str, Any]:
    """Score the validation images by the prediction that users get: same number format, same float32 parts."""
    processes.share_buffers(model)
    predictor = Predictor([model], str(processes.device), processes.precision)
    answers = predict_cached(predictor, val, cache, config.batch_size, processes.index, processes.count)
    probabilities = join_batches(processes.gather(answers)).mean(0)
    return classification_scores([classes.index(record.label) for record in val], probabilities, list(classes))


def class_weights(labels: Sequence[int], num_classes: int) -> Tensor:
    """Weight of class j: N_max / N_j, so that the minority counts as much as the majority; 0 for an absent class."""
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_classes).float()
    return torch.where(counts > 0, counts.max() / counts.clamp(min=1), 0.0)


def _plateau(optimizer: torch.optim.Optimizer, config: TrainConfig) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
    patience = config.lr_patience - 1  # Keras drops the rate after this many epochs, torch one later
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=config.lr_factor, patience=patience, threshold=0.0, threshold_mode="abs"
    )
