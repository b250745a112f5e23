"""One network from the folds of a run: the mean of their weights, evaluated before use.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time" (ICML 2022), the uniform soup. It works if the models were fine-tuned from the same weights, as
v1's folds were from ImageNet weights; models from random weights usually cannot be averaged.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from cvrnet.data import DataError, Preprocessing, Record, check_classes, read_records, to_batch
from cvrnet.data.data_set import DataPath, DataSet
from cvrnet.devices import select_device
from cvrnet.errors import UserError
from cvrnet.files import write_csv
from cvrnet.inference import Predictor
from cvrnet.inference.fuse_batch_norm import fuse_batch_norm
from cvrnet.metrics import classification_scores
from cvrnet.metrics.bootstrap import mean_interval
from cvrnet.runs.checkpoint import (
    checkpoint_classes,
    find_checkpoints,
    load_checkpoint,
    refuse_bags,
    save_checkpoint,
    stored_unit,
)
from cvrnet.runs.folder import claim_folder, hash_records, open_run_folder
from cvrnet.runs.held_out import trained_on
from cvrnet.runs.layout import CONFIG, RUN, SPLIT, WEIGHTS
from cvrnet.runs.predictions import PredictionTable
from cvrnet.runs.read import read_json, read_rows, read_run
from cvrnet.runs.split_table import SplitTable
from cvrnet.workflows.evaluate import describe_evaluation, predict_records, write_evaluation
from cvrnet.workflows.job import Callbacks, audit_run, finish_report

KIND = "soup"
RECALIBRATION_IMAGES = 512
LOSS = 0.02
"""Non-inferiority margin: a soup holds up if its accuracy is certainly less than this below its folds' mean."""


def make_soup(
    run: str | Path,
    output: str | Path,
    data: DataPath | None = None,
    *,
    folds: Sequence[int] = (),
    batch_size: int = 8,
    device: str = "auto",
    amp: str = "auto",
    any_body_part: bool = False,
    audit: bool = True,
    maps: bool = True,
    overwrite: bool = False,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Average the weights of a run's folds into one checkpoint, and score folds, ensemble and soup on the same images.

    Weights are summed in float64. The folds' batch-norm statistics do not fit the averaged weights: new ones are
    computed from images of the run if its data set still exists; otherwise the folds' statistics are averaged.
    Frozen encoders keep theirs.

    ``run`` has several folds, of which ``folds`` chooses some. ``data`` are labelled images to score on: by default the
    run's independent images or, if it has none, all its images. ``output`` becomes a run with run.json, split.csv,
    config.json and model.safetensors. If no fold was trained on the scored images, it also gets metrics.json,
    predictions.csv, figures/, tables/ and report.html. Other arguments: see `cvrnet.workflows`.

    Returns:
        ``rows`` with the scores of each fold, the ensemble and the soup, and three sentences: ``verdict``, whether the
        soup holds up; ``images``, which images were scored, and whether any fold was trained on them;
        ``batch_norm``, where the statistics of batch norm come from.

    Raises:
        UserError: There are fewer than two folds, the folds differ in more than weights, there are no images to score
            on, or the folder holds something.
        DataError: Some images cannot be read.
    """
    run, output, callbacks = Path(run), Path(output), callbacks or Callbacks()
    folders = find_checkpoints(run, folds)
    refuse_bags(stored_unit(folders[0]), "a soup")
    _check_folds(folders)
    with open_run_folder(output, KIND, overwrite=overwrite) as place:
        about = read_run(run) if (run / RUN).is_file() else {}
        if about.get("task") == "multilabel":
            raise UserError(f"{run} is a run of findings; soup is for models that name one class an image")
        own, seen = _own_images(about), trained_on(run) or SplitTable([])
        records, honest, images = _images(run, about, own, seen, data)
        model = average(folders)
        classes = checkpoint_classes(model)
        check_classes((r.label for r in records), classes)
        if _same_encoders(folders):
            batch_norm = "batch norm's statistics stay: the encoders are the same in all folds, they were frozen"
        else:
            batch_norm = _renew_batch_norm(model, [r for r in own if seen.fold_of(r)], device)

        progress = callbacks.stage("Predicting")
        tables: dict[str, PredictionTable] = {}

        def predict(name: str, predictor: Predictor) -> None:
            before, total = len(records) * len(tables), len(records) * (len(folders) + 1)
            tables[name] = predict_records(
                predictor, records, batch_size=batch_size, progress=lambda done, _: progress(before + done, total)
            )
            if tables[name].problems:
                raise DataError(list(tables[name].problems), data or run)

        for folder in folders:
            predict(folder.name, Predictor.from_pretrained(folder, device, amp, any_body_part=any_body_part))
        predictor = Predictor([fuse_batch_norm(copy.deepcopy(model))], device, amp, any_body_part=any_body_part)
        predict(KIND, predictor)
        rows, verdict = _compare(tables, honest)
        soup = {"rows": rows, "verdict": verdict, "images": images, "batch_norm": batch_norm}

        scored = DataSet.of(data) if data else DataSet.of_run(about)
        assert scored  # without data, the images are those of the run
        described = describe_evaluation(str(run), predictor, scored, records, tables[KIND])
        of = [folder.name for folder in folders]
        place.start()
        claim_folder(place.folder, {**about, **described, "kind": KIND, "folds": of, "soup": soup})
        save_checkpoint(model, place.folder, classes)
        if (run / SPLIT).is_file():
            write_csv(place.folder / SPLIT, read_rows(run / SPLIT))
        if honest:
            write_evaluation(place.folder, {"test": tables[KIND]})
            if audit:
                audit_run(place.folder, scored, records, callbacks, any_body_part, output)
            finish_report(place.folder, maps, predictor)
    return soup


def average(folders: Sequence[Path]) -> nn.Module:
    """The mean of the checkpoints' tensors, calculated in float64; integers come from the first checkpoint."""
    model = load_checkpoint(folders[0])
    weights = [load_file(folder / WEIGHTS) for folder in folders]
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(sum(tensors[name].double() for tensors in weights) / len(weights))
    return model


def _check_folds(folders: Sequence[Path]) -> None:
    """Refuse a single model, and models that differ in more than their weights."""
    if len(folders) < 2:
        raise UserError(f"{folders[0]} is one model; a soup needs a run with several folds")
    configs = [read_json(folder / CONFIG) for folder in folders]
    for key in ("architecture", "model_args", "label_names"):
        for folder, config in zip(folders, configs, strict=True):
            if _argument(config, key) != _argument(configs[0], key):
                raise UserError(
                    f"{folder.name} and {folders[0].name} differ in {key} ({config.get(key)!r:.60}, "
                    f"{configs[0].get(key)!r:.60}); a soup needs folds of one architecture and the same classes"
                )


def _argument(config: Mapping[str, Any], key: str) -> Any:
    value = config.get(key)
    # Earlier versions also wrote the number of classes among the arguments.
    return {name: value[name] for name in value if name != "num_classes"} if isinstance(value, dict) else value


def _own_images(about: Mapping[str, Any]) -> list[Record]:
    """The run's data set, if it still exists and has not changed."""
    data = DataSet.of_run(about)
    try:
        records = read_records(data) if data else []
    except DataError:
        return []
    return records if hash_records(records) == about.get("data_sha256") else []


def _images(
    run: Path, about: Mapping[str, Any], own: list[Record], seen: SplitTable, data: DataPath | None
) -> tuple[list[Record], bool, str]:
    """The images to score on, whether they are new to all folds, and a sentence about this."""
    if data is not None:
        records = read_records(data, min_classes=1)
        if known := seen.count(records):
            sentence = f"{known} of the {len(records)} images, or their patients, were used to train the soup"
            return records, False, sentence
        return records, True, f"{len(records)} images of {data}"
    if not own:
        raise UserError(f"the images of {run} no longer exist; expected DATA to score the soup on")
    if outside := [r for r in own if not seen.fold_of(r)]:
        source = about.get("test_source") or "split=test"
        return outside, True, f"{len(outside)} images of {source}, which no fold was trained on"
    sentence = (
        f"all {len(own)} images of the run: the soup, the ensemble and most folds were trained on them, so the "
        "scores can show that a soup is broken, but not that it is good; give DATA that no fold has seen"
    )
    return own, False, sentence


def _same_encoders(folders: Sequence[Path]) -> bool:
    """Whether the folds are CVR-Nets with the same encoders, which differ only in their heads."""
    first, *others = (load_file(folder / WEIGHTS) for folder in folders)
    names = [name for name in first if name.startswith("encoders.")]
    return bool(names) and all(torch.equal(first[name], other[name]) for name in names for other in others)


def _renew_batch_norm(model: nn.Module, records: Sequence[Record], device: str) -> str:
    """Compute batch norm's statistics for the averaged weights, as Wortsman et al. do."""
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        return "the network has no batch norm"
    if len(records) < 2:  # one image alone has no variance in the deepest maps
        return "batch norm's statistics are the folds' average, because the run's images are missing"
    chosen = np.random.default_rng(0).permutation(len(records))[:RECALIBRATION_IMAGES]
    batches = [chosen[i : i + 16] for i in range(0, len(chosen), 16)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches.pop()
    # Any part of the body is accepted, because the run has already read these images.
    preprocessing = replace(Preprocessing.from_model(model), any_body_part=True)

    def batch(indices: np.ndarray) -> Tensor:
        images = (preprocessing.read(records[i].path) for i in indices)
        return preprocessing.normalize(to_batch([preprocessing.resize(image) for image in images]))

    place = select_device(device)
    update_bn(map(batch, batches), model.to(place), place)
    model.to("cpu")
    return f"batch norm's statistics are computed again from {sum(map(len, batches))} of the run's images"


def _compare(tables: Mapping[str, PredictionTable], honest: bool) -> tuple[list[dict[str, Any]], str]:
    """The rows and the verdict, from the predictions of the folds and (in the last table) of the soup.

    The verdict compares the soup with the mean of its folds, image by image; the interval is a bootstrap over patients.
    """
    *folds, soup = tables.values()
    probabilities = {name: table.probabilities for name, table in tables.items() if name != KIND}
    probabilities |= {"ensemble": np.mean(list(probabilities.values()), axis=0), KIND: soup.probabilities}
    rows: list[dict[str, Any]] = []
    for name, table in probabilities.items():
        scores = classification_scores(soup.labels, table, soup.classes)
        row = {"model": name, "images": len(soup.labels)}
        row |= {key: scores[key] for key in ("accuracy", "balanced_accuracy")}
        row |= {"f1_macro": scores["macro"]["f1"], "auc_macro": scores["macro"]["roc_auc"]}
        rows.append(row | {"log_loss": scores["log_loss"]})

    hits = np.mean([table.guesses == table.labels for table in folds], axis=0)
    difference, interval = mean_interval((soup.guesses == soup.labels) - hits, soup.groups)
    low, high = interval or (-1.0, 1.0)
    accuracy = {row["model"]: row["accuracy"] for row in rows}
    if high < 0:
        verdict = "the soup does not hold up, it is clearly worse than its folds"
    elif not honest:
        verdict = "nothing speaks against the soup, on images that trained it"
    elif low > -LOSS:
        verdict = f"the soup holds up, it is less than {LOSS:.0%} worse than its folds"
    else:
        verdict = f"{len(hits)} images are too few to tell whether the soup holds up"
    return rows, (
        f"{verdict}: accuracy {accuracy[KIND]:.3f}, its folds' mean {hits.mean():.3f} (difference {difference:+.3f}, "
        f"95 % interval {low:+.3f} to {high:+.3f}), their ensemble {accuracy['ensemble']:.3f}"
    )
