"""The training loop of one model (first paper, section 2.3; second paper, section 5.2)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cvrnet.data import ImageCache, Record
from cvrnet.devices import autocast, compile_failed, kernels
from cvrnet.errors import UserError
from cvrnet.files import write_csv
from cvrnet.inference.frozen_features import FrozenFeatures
from cvrnet.runs.layout import HISTORY, LAST_STATE, STATE
from cvrnet.training.batches import Schedule, image_loader
from cvrnet.training.config import TrainConfig
from cvrnet.training.frozen_bags import FrozenBags
from cvrnet.training.frozen_encoders import FrozenEncoders
from cvrnet.training.model import InitialModel
from cvrnet.training.objective import Objective, make_objective
from cvrnet.training.processes import Processes
from cvrnet.training.state import State, restore_state, save_state
from cvrnet.training.updates import Updates
from cvrnet.training.whole_bags import WholeBags
from cvrnet.training.whole_network import WholeNetwork


@dataclass
class Progress:
    """Callbacks of training; they are called only on the main process."""

    #: Called before an epoch with the number of the epoch, the number of training images and the history so far.
    start: Callable[[int, int, list[dict[str, Any]]], None] = lambda epoch, images, history: None
    #: Called after each optimiser step with the number of images of the step, and a function that returns the mean loss
    #: of the epoch so far (on a GPU, calling this function waits for the GPU).
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
    model: nn.Module | None = None,
    features: FrozenFeatures | None = None,
    progress: Progress | None = None,
) -> State:
    """Train one model, and save the best epoch's weights in ``folder``, in timm's format.

    The folder gets config.json, model.safetensors, history.csv and training-state.pt. (After training, `close_state`
    removes or renames training-state.pt.) If the folder has the state of an interrupted training, this training
    continues after the last epoch that was saved. A training that ended after the last of its N epochs continues if
    ``config`` has more than N epochs. On a CPU, a continued training gives the same weights as an uninterrupted one.

    With several processes (``accelerate launch``), each process computes the gradients of its part of every batch. The
    sum of these gradients over the processes is the gradient of the whole batch. Batch norm normalises each part with
    the statistics of this part; the running statistics of process 0 are saved.

    Args:
        config: The settings.
        train: The training images, or bags.
        val: The validation images, or bags.
        classes: Names of the classes or findings, in the order of the logits.
        cache: The decoded training and validation images, in the config's size.
        folder: The folder of the model.
        model: The model to train; if it is None, a new model is created from the config.
        features: The vectors (pooled maps) of the training and validation images, to train only the model's heads. If
            it is None, the whole network is trained.
        progress: Callbacks.

    Returns:
        The final state, with the history.

    Raises:
        UserError: The loss is not finite, the saved state is damaged, the batches are too small (see
            `cvrnet.training.batches.check_parts`), or the network cannot be compiled.
    """
    progress = progress or Progress()
    processes = Processes(config.device, config.amp)
    model = InitialModel(config, len(classes)).model if model is None else model
    objective = make_objective(config, train, val, classes, processes.device)
    task: WholeNetwork | FrozenEncoders
    if features is None:
        whole = WholeNetwork if config.unit == "image" else WholeBags
        task = whole(config, model, train, objective.labels, val, classes, cache, processes)
    else:
        frozen = FrozenEncoders if config.unit == "image" else FrozenBags
        task = frozen(config, model, train, objective.labels, val, classes, features, processes)
    schedule = Schedule(len(train), config, processes.count, processes.index, task.smallest_part)
    updates = Updates(task.trained, config, processes)
    task.evaluated = updates.evaluated
    parts = {**task.parts, **updates.parts}
    state = restore_state(folder / (STATE if (folder / STATE).is_file() else LAST_STATE), parts)
    saved, saved_epoch = time.monotonic(), state.epoch
    on_gpu = processes.device.type == "cuda"
    with (
        image_loader(task.items, schedule, config.num_workers, pin_memory=on_gpu) as loader,
        kernels(processes.device, processes.precision),
    ):
        while state.epoch < config.epochs and state.epoch - state.best_epoch < config.patience:
            started = time.perf_counter()
            schedule.epoch = state.epoch + 1
            if processes.is_main:
                progress.start(schedule.epoch, len(train), state.history)
            steps = schedule.batches(), loader
            train_loss = _train_epoch(config, task, objective, schedule.epoch, *steps, updates, processes, progress)
            processes.share_buffers(task.trained)
            processes.share_buffers(task.evaluated)
            row = {"epoch": schedule.epoch, "lr": updates.rate, "train_loss": train_loss}
            row |= objective.scores(task.validate().mean(0))
            row["seconds"] = round(time.perf_counter() - started, 3)
            quality = row["val_accuracy"] if config.monitor == "val_accuracy" else -row["val_loss"]
            updates.end_epoch(quality)
            row["best"] = int(quality > state.best)
            state.history.append(row)
            state.epoch = schedule.epoch
            if row["best"]:
                state.best, state.best_epoch = quality, state.epoch
            if processes.is_main:
                if row["best"]:
                    task.keep_best(folder)
                if time.monotonic() - saved >= task.save_seconds:
                    # Written after the weights: a crash between the two only repeats the epoch, with the same result.
                    save_state(folder / STATE, parts, state)
                    write_csv(folder / HISTORY, state.history)
                    saved, saved_epoch = time.monotonic(), state.epoch
                progress.end(row)
            processes.wait()
    if processes.is_main:
        task.finish(folder)
        if saved_epoch < state.epoch:
            save_state(folder / STATE, parts, state)
            write_csv(folder / HISTORY, state.history)
    return state


def _train_epoch(
    config: TrainConfig,
    task: WholeNetwork | FrozenEncoders,
    objective: Objective,
    epoch: int,
    batches: Sequence[Sequence[Sequence[int]]],
    loader: Iterable[tuple[Any, Tensor]],
    updates: Updates,
    processes: Processes,
    progress: Progress,
) -> float:
    """Train for one epoch; return the mean loss of its images. Raise UserError if the loss is not finite.

    ``batches`` has the image indices of all processes (see `epoch_batches`). ``loader`` yields the images and labels of
    this process: for each batch, ``config.grad_accum`` parts.
    """
    device, world, loaded = processes.device, processes.count, iter(loader)
    network = task.begin_epoch(epoch)
    # Dropout depends only on the seed, epoch and process, so a resumed training repeats it.
    torch.manual_seed(config.seed + epoch * world + processes.index)
    total, seen = torch.zeros((), device=device), 0
    for number, parts in enumerate(batches, start=1 + (epoch - 1) * len(batches)):
        size = sum(len(part) for part in parts)
        for micro in range(config.grad_accum):
            batch, labels = next(loaded)
            x = task.inputs(batch)
            y = labels.to(device, non_blocking=True)
            try:
                with autocast(device, processes.precision):
                    logits = network(x)
                losses = objective.losses(logits.float(), y)
                # Like Keras, divide the weighted sum by the number of images; torch's `weight=` would divide it by the
                # sum of the weights.
                loss = losses.sum() / size
                last = micro == config.grad_accum - 1
                with contextlib.nullcontext() if last else processes.without_sync(network):
                    updates.backward(loss * world)  # DDP averages the gradients; times `world`, this is the sum
            except Exception as error:  # compilers may raise anything
                if not config.compile:
                    raise
                raise compile_failed(error, "train without compilation") from error
            total += loss.detach() * size
        updates.step(number)
        seen += size
        if processes.is_main:
            progress.step(size, lambda total=total, seen=seen: float(total) * world / seen)
    loss_mean = processes.total(total) / seen
    if not math.isfinite(loss_mean):
        raise UserError(f"the loss is {loss_mean} in epoch {epoch}; try a lower lr than {config.lr}, or amp='fp32'")
    return loss_mean
