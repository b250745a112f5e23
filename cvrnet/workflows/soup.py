"""One network from the folds of a run: the mean of their weights, tried before it is trusted (extra ``train``).

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time" (ICML 2022), the uniform soup. It can hold up where the models were fine-tuned from the same weights, as
v1's folds are from ImageNet's; models from random weights usually cannot be averaged.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from cvrnet.data import DataError, ImageError, Preprocessing, Record, check_classes, read_image, scan_records, to_batch
from cvrnet.devices import select_device
from cvrnet.errors import UserError
from cvrnet.files import write_json
from cvrnet.inference import Predictor
from cvrnet.metrics import classification_scores
from cvrnet.metrics.bootstrap import mean_interval
from cvrnet.runs.checkpoint import checkpoint_classes, find_checkpoints, load_checkpoint, save_checkpoint
from cvrnet.runs.layout import CONFIG, INDEPENDENT, RUN, SPLIT, WEIGHTS
from cvrnet.runs.predictions import PredictionTable
from cvrnet.runs.read import read_json
from cvrnet.runs.split_table import SplitTable
from cvrnet.workflows.evaluate import hash_records, predict_records, write_evaluation

KIND = "soup"
RECALIBRATION_IMAGES = 512
LOSS = 0.02
"""Of accuracy: a soup holds up when it is surely not further below its folds."""
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Soup:
    """What became of the folds.

    Attributes:
        rows: A row a fold, one of the ensemble, one of the soup: images, accuracy, balanced accuracy, macro F1 and AUC,
            log loss.
        verdict: One sentence: whether the soup holds up.
        images: One sentence: what the rows were measured on, and whether that is honest.
        batch_norm: One sentence: where its statistics come from.
    """

    rows: list[dict[str, Any]]
    verdict: str
    images: str
    batch_norm: str


def make_soup(
    run: str | Path,
    output: str | Path,
    data: str | Path | None = None,
    *,
    folds: Sequence[int] = (),
    overwrite: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Soup:
    """Average the weights of a run's folds into one checkpoint, and score folds, ensemble and soup on the same images.

    Weights are added up in float64. Batch norm's statistics belong to no fold's network any more: they are taken anew
    from images of the run where its data set is still there, and averaged otherwise.

    Args:
        run: A run with several folds.
        output: The soup's own run folder: run.json, split.csv, config.json, model.safetensors and, where it was scored
            on images that it has not seen, metrics.json, predictions.csv and figures/.
        data: Labelled images to score on; by default the run's independent source or, failing that, all its images.
        folds: Only these.
        overwrite: Replace a soup that is there.
        device: As in `Predictor`.
        dtype: As in `Predictor`.
        batch_size: Images the networks see at once.
        progress: Called after each image with the number done and the number of all, over all networks.

    Raises:
        UserError: Fewer than two folds, folds of different kinds, no images to score on, or something is in the way.
        DataError: Images cannot be read.
    """
    run, output = Path(run), Path(output)
    folders = find_checkpoints(run, folds)
    _check_folds(folders)
    _check_output(output, overwrite)
    about = _read_run(run)
    records, sentence, honest = _images(run, about, data)
    classes = checkpoint_classes(load_checkpoint(folders[0]))
    check_classes((r.label for r in records), classes)

    model = average(folders)
    batch_norm = _renew_batch_norm(model, run, about, device)
    answers: dict[str, PredictionTable] = {}
    total = len(records) * (len(folders) + 1)

    def score(name: str, predictor: Predictor) -> None:
        before = len(records) * len(answers)
        told = None if progress is None else lambda done, _: progress(before + done, total)
        answers[name] = predict_records(predictor, records, batch_size=batch_size, progress=told)
        if answers[name].problems:
            raise DataError(list(answers[name].problems), data or run)

    for folder in folders:
        score(folder.name, Predictor.from_pretrained(folder, device, dtype))
    mean = np.mean([a.probabilities for a in answers.values()], axis=0)
    if output.exists() and overwrite:
        shutil.rmtree(output)
    save_checkpoint(model, output, classes)
    score(KIND, Predictor.from_pretrained(output, device, dtype))
    tables = {name: a.probabilities for name, a in answers.items() if name != KIND}
    tables |= {"ensemble": mean, KIND: answers[KIND].probabilities}
    rows = [_row(name, table, records, classes) for name, table in tables.items()]
    soup = Soup(rows, _verdict(rows, tables, records, classes, honest), sentence, batch_norm)

    if honest:
        write_evaluation(output, {"test": answers[KIND]})
    if (run / SPLIT).is_file():
        shutil.copyfile(run / SPLIT, output / SPLIT)
    of = [folder.name for folder in folders]
    write_json(output / RUN, {**about, "kind": KIND, "classes": classes, "folds": of, "soup": vars(soup)})
    return soup


def average(folders: Sequence[Path]) -> nn.Module:
    """The mean of the checkpoints' tensors, calculated in float64; counters are the first one's."""
    model = load_checkpoint(folders[0])
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(sum(t.double() for t in _tensors(folders, name)) / len(folders))
    return model


def _tensors(folders: Sequence[Path], name: str) -> Iterator[Tensor]:
    for folder in folders:
        with safe_open(folder / WEIGHTS, "pt") as file:
            yield file.get_tensor(name)


def _check_folds(folders: Sequence[Path]) -> None:
    if len(folders) < 2:
        raise UserError(f"{folders[0]} is one model; a soup needs a run with several folds")
    configs = [read_json(folder / CONFIG) for folder in folders]
    for folder, config in zip(folders[1:], configs[1:], strict=True):
        for key in ("architecture", "model_args", "label_names"):
            if config.get(key) != configs[0].get(key):
                raise UserError(
                    f"{folder.name} and {folders[0].name} differ in {key} ({_short(config.get(key))}, "
                    f"{_short(configs[0].get(key))}); a soup needs folds of one architecture and the same classes"
                )


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not output.is_dir() or _read_run(output).get("kind") != KIND:
        raise UserError(f"{output} exists and is not a soup; choose another folder")
    if not overwrite:
        raise UserError(f"{output} exists; --overwrite replaces it")


def _read_run(folder: Path) -> dict[str, Any]:
    path = folder / RUN
    return read_json(path) if path.is_file() else {}


def _images(run: Path, about: dict[str, Any], data: str | Path | None) -> tuple[list[Record], str, bool]:
    """What is scored on, a sentence about it, and whether no fold was trained on any of it."""
    seen = _seen(run)
    if data is not None:
        records, problems = scan_records(data, min_classes=1)
        if problems:
            raise DataError(problems, data)
        same = about.get("data") == str(data) or hash_records(records) == about.get("data_sha256")
        if known := seen.count(records) if same else sum(seen.fold_of(r) is not None for r in records):
            about_them = f"{known} of the {len(records)} images, or their patients, trained folds, and so the soup"
            return records, about_them, False
        return records, f"{len(records)} images of {data}", True
    everything = _own_images(about)
    if not everything:
        raise UserError(f"the images of {run} are not there any more; expected DATA to score the soup on")
    source = about.get("test_source") or ""
    outside = [r for r in everything if source and r.source == source]
    if outside:
        return outside, f"{len(outside)} images of {source}, which no fold was trained on", True
    return (
        everything,
        f"all {len(everything)} images of the run: the soup, the ensemble and most folds were trained on them, so that "
        "the scores can show that a soup is broken, but not that it is good; give DATA that no fold has seen",
        False,
    )


def _seen(run: Path) -> SplitTable:
    """The images that the folds were trained, validated or tested on."""
    return SplitTable.read(run / SPLIT).without({INDEPENDENT}) if (run / SPLIT).is_file() else SplitTable([])


def _own_images(about: dict[str, Any]) -> list[Record]:
    """The run's data set, where it is still there and still the same."""
    if not about.get("data"):
        return []
    records, problems = scan_records(about["data"])
    return records if not problems and hash_records(records) == about.get("data_sha256") else []


def _renew_batch_norm(model: nn.Module, run: Path, about: dict[str, Any], device: str) -> str:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return "the network has no batch norm"
    seen = _seen(run)
    records = [r for r in _own_images(about) if seen.fold_of(r)]
    if not records:
        return "batch norm's statistics are the folds' averaged: the run's images are not there to take them anew"
    chosen = np.random.default_rng(0).permutation(len(records))[:RECALIBRATION_IMAGES]
    preprocessing = Preprocessing.from_model(model)
    batches = [chosen[i : i + 16] for i in range(0, len(chosen), 16)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches.pop()  # one image alone has no variance in the deepest maps
    place = select_device(device)
    update_bn((_batch([records[i] for i in b], preprocessing) for b in batches), model.to(place), place)
    model.to("cpu")
    return f"batch norm's statistics are taken anew from {sum(map(len, batches))} of the run's images"


def _batch(records: Sequence[Record], preprocessing: Preprocessing) -> Tensor:
    try:
        images = [preprocessing.resize(read_image(r.path, preprocessing.mode)) for r in records]
    except ImageError as error:
        raise UserError(str(error)) from error
    return preprocessing.normalize(to_batch(images))


def _row(name: str, table: np.ndarray, records: Sequence[Record], classes: Sequence[str]) -> dict[str, Any]:
    scores = classification_scores([classes.index(r.label) for r in records], table, list(classes))
    return {
        "model": name,
        "images": len(records),
        "accuracy": scores["accuracy"],
        "balanced_accuracy": scores["balanced_accuracy"],
        "f1_macro": scores["macro"]["f1"],
        "auc_macro": scores["macro"]["roc_auc"],
        "log_loss": scores["log_loss"],
    }


def _verdict(
    rows: Sequence[dict[str, Any]],
    tables: dict[str, np.ndarray],
    records: Sequence[Record],
    classes: Sequence[str],
    honest: bool,
) -> str:
    """The soup against the mean of its folds, image by image; the interval is a bootstrap over patients."""
    labels = np.array([classes.index(r.label) for r in records])
    hits = {name: table.argmax(1) == labels for name, table in tables.items()}
    folds = np.mean([hit for name, hit in hits.items() if name not in (KIND, "ensemble")], axis=0)
    difference, interval = mean_interval(hits[KIND] - folds, [r.patient_id for r in records])
    low, high = interval or (-1.0, 1.0)
    accuracy = {row["model"]: row["accuracy"] for row in rows}
    figures = (
        f"accuracy {accuracy[KIND]:.3f}, its folds' mean {folds.mean():.3f} (difference {difference:+.3f}, "
        f"95 % interval {low:+.3f} to {high:+.3f}), their ensemble {accuracy['ensemble']:.3f}"
    )
    if high < 0:
        return f"the soup does not hold up, it is clearly worse than its folds: {figures}"
    if not honest:
        return f"nothing speaks against the soup, on images that trained it: {figures}"
    if low > -LOSS:
        return f"the soup holds up, it is less than {LOSS:.0%} worse than its folds: {figures}"
    return f"{len(records)} images cannot tell whether the soup holds up: {figures}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return f"{text[:57]}..." if len(text) > 60 else text
