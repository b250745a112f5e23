"""Make one network from the folds of a run, by averaging their weights, and evaluate it.

This is the uniform soup of Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time" (ICML 2022). It works if all models were fine-tuned from the same weights.
This is true for the folds of the first paper (arXiv 2007.11993): all models start from ImageNet weights. Models that
were trained from random weights usually cannot be averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from cvrnet.copies import copy_network
from cvrnet.data import DataError, Preprocessing, Record, to_batch
from cvrnet.data.data_set import DataPath, DataSet
from cvrnet.devices import select_device
from cvrnet.encoders.fuse_batch_norm import fuse_batch_norm
from cvrnet.errors import UserError
from cvrnet.files import write_csv
from cvrnet.formatting import count
from cvrnet.inference import Predictor
from cvrnet.lungs.attach import with_finder
from cvrnet.runs.checkpoint import (
    checkpoint_classes,
    checkpoint_task,
    find_checkpoints,
    load_checkpoint,
    refuse_bags,
    save_checkpoint,
    stored_unit,
)
from cvrnet.runs.folder import claim_folder, hash_records, open_run_folder
from cvrnet.runs.held_out import trained_on
from cvrnet.runs.layout import CONFIG, RUN, SPLIT, WEIGHTS
from cvrnet.runs.predictions import AnyTable
from cvrnet.runs.read import read_json, read_rows, read_run
from cvrnet.runs.split_table import SplitTable
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.compare_soup import compare_soup
from cvrnet.workflows.cut_lungs import save_segmenter
from cvrnet.workflows.evaluate import describe_evaluation, predict_records, read_for, write_evaluation
from cvrnet.workflows.outcomes import refuse_outcome
from cvrnet.workflows.pages import audit_run, finish_report

KIND = "soup"
RECALIBRATION_IMAGES = 512


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

    Weights are summed in float64. The folds' batch-norm statistics do not fit the averaged weights. If the run's data
    set still exists, new statistics are computed from its images; otherwise the folds' statistics are averaged. Frozen
    encoders keep their statistics.

    ``run`` is a run folder with several folds; ``folds`` selects some of them (empty: all). ``data`` are labelled
    images for the scores, by default the run's independent images or, if there are none, all images of the run.
    ``output`` becomes a run with run.json, split.csv, config.json and model.safetensors. If no fold was trained on the
    scored images, it also gets metrics.json, predictions.csv, figures/, tables/, report.html and audit.html. Other
    arguments: see `cvrnet.workflows`.

    Returns:
        A dictionary: ``rows``, the scores of each fold, the ensemble and the soup; and three sentences: ``verdict``,
        whether the soup is worse than its folds; ``images``, which images were scored, and whether any fold was trained
        on them; ``batch_norm``, where the statistics of batch norm come from.

    Raises:
        UserError: There are fewer than two folds, the folds differ in more than weights, the models classify bags or
            predict an event, there are no images for the scores, or ``output`` has files that may not be replaced.
        DataError: Some images cannot be read.
    """
    run, output, callbacks = Path(run), Path(output), callbacks or Callbacks()
    folders = find_checkpoints(run, folds)
    refuse_bags(stored_unit(folders[0]), "a soup")
    _check_folds(folders)
    with open_run_folder(output, KIND, overwrite=overwrite) as place:
        about = read_run(run) if (run / RUN).is_file() else {}
        model = average(folders)
        refuse_outcome(model, "a soup")
        task, classes = checkpoint_task(model), checkpoint_classes(model)
        own, seen = _own_images(about, task, classes), trained_on(run) or SplitTable([])
        given = read_for(task, classes, data) if data is not None else []
        records, honest, images = _images(run, about, own, seen, given, data)
        if _same_encoders(folders):
            batch_norm = "batch norm's statistics are unchanged: the encoders were frozen and are equal in all folds"
        else:
            renewed = with_finder(Preprocessing.from_model(model), folders)
            batch_norm = _renew_batch_norm(model, [r for r in own if seen.fold_of(r)], renewed, device)

        progress = callbacks.stage("Predicting")
        tables: dict[str, AnyTable] = {}

        def predict(name: str, predictor: Predictor) -> None:
            predictor.preprocessing = with_finder(predictor.preprocessing, folders)
            predictor.use_masks(records)
            before, total = len(records) * len(tables), len(records) * (len(folders) + 1)
            tables[name] = predict_records(
                predictor, records, batch_size=batch_size, progress=lambda done, _: progress(before + done, total)
            )
            if tables[name].problems:
                raise DataError(list(tables[name].problems), data or run)

        for folder in folders:
            predict(folder.name, Predictor.from_pretrained(folder, device, amp, any_body_part=any_body_part))
        predictor = Predictor([fuse_batch_norm(copy_network(model))], device, amp, any_body_part=any_body_part)
        predict(KIND, predictor)
        rows, verdict = compare_soup(tables, honest)
        soup = {"rows": rows, "verdict": verdict, "images": images, "batch_norm": batch_norm}

        scored = DataSet.of(data) if data else DataSet.of_run(about)
        assert scored  # without data, the images are those of the run
        described = describe_evaluation(str(run), predictor, scored, records, tables[KIND])
        of = [folder.name for folder in folders]
        place.start()
        claim_folder(place.folder, {**about, **described, "kind": KIND, "folds": of, "soup": soup})
        save_checkpoint(model, place.folder, classes)
        save_segmenter(place.folder, predictor.preprocessing.finder)
        if (run / SPLIT).is_file():
            write_csv(place.folder / SPLIT, read_rows(run / SPLIT))
        if honest:
            write_evaluation(place.folder, {"test": tables[KIND]})
            if audit:
                findings = classes if task == "multilabel" else ()
                audit_run(place.folder, scored, records, callbacks, any_body_part, output, findings)
            finish_report(place.folder, maps, predictor)
    return soup


def average(folders: Sequence[Path]) -> nn.Module:
    """Return a model with the mean of the checkpoints' weights, computed in float64.

    Integers (such as batch norm's counters) are from the first checkpoint.
    """
    model = load_checkpoint(folders[0])
    weights = [load_file(folder / WEIGHTS) for folder in folders]
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(sum(tensors[name].double() for tensors in weights) / len(weights))
    return model


def _check_folds(folders: Sequence[Path]) -> None:
    """Raise UserError for a single model, and for folds that differ in more than their weights."""
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


def _own_images(about: Mapping[str, Any], task: str, classes: Sequence[str]) -> list[Record]:
    """Return the images of the run's data set, if it still exists and has not changed; otherwise none."""
    data = DataSet.of_run(about)
    try:
        uncertain = about.get("config", {}).get("uncertain", "ignore")
        records = read_for(task, classes, data, uncertain=uncertain) if data else []
    except UserError:
        return []
    return records if hash_records(records) == about.get("data_sha256") else []


def _images(
    run: Path, about: Mapping[str, Any], own: list[Record], seen: SplitTable, given: list[Record], data: DataPath | None
) -> tuple[list[Record], bool, str]:
    """Return the images for the scores, whether they are new to all folds, and a sentence about this."""
    if data is not None:
        found = f"{count(len(given), 'image')} of {data}"
        if known := seen.count(given):
            return given, False, f"{found}; {known:,} of them, or their patients, were used to train the soup"
        return given, True, found
    if not own:
        raise UserError(
            f"the images of {run} are missing or have changed; pass DATA, the images on which the soup is scored"
        )
    if outside := [r for r in own if not seen.fold_of(r)]:
        source = about.get("test_source") or "split=test"
        return outside, True, f"{count(len(outside), 'image')} of {source}, which no fold was trained on"
    sentence = (
        f"all {len(own):,} images of the run: the soup, the ensemble and most folds were trained on them, so the "
        "scores can show that a soup is broken, but not that it is good; add DATA that no fold was trained on"
    )
    return own, False, sentence


def _same_encoders(folders: Sequence[Path]) -> bool:
    """Return whether the folds are CVR-Nets with equal encoder weights, so that they differ only in their heads."""
    first, *others = (load_file(folder / WEIGHTS) for folder in folders)
    names = [name for name in first if name.startswith("encoders.")]
    return bool(names) and all(torch.equal(first[name], other[name]) for name in names for other in others)


def _renew_batch_norm(model: nn.Module, records: Sequence[Record], preprocessing: Preprocessing, device: str) -> str:
    """Compute batch norm's statistics for the averaged weights, as SWA does; return a sentence about them.

    SWA is stochastic weight averaging (Izmailov et al., "Averaging weights leads to wider optima and better
    generalization", UAI 2018).
    """
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        return "the network has no batch norm"
    if len(records) < 2:  # one image alone has no variance in the deepest maps
        return "batch norm's statistics are the average over the folds, because the run's images are missing"
    chosen = np.random.default_rng(0).permutation(len(records))[:RECALIBRATION_IMAGES]
    batches = [chosen[i : i + 16] for i in range(0, len(chosen), 16)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches.pop()
    # Any part of the body is accepted, because the run has already read these images.
    preprocessing = replace(preprocessing, any_body_part=True)
    if preprocessing.finder is not None:
        preprocessing.finder.use_masks(records)

    def batch(indices: np.ndarray) -> Tensor:
        images = (preprocessing.read(records[i].path) for i in indices)
        return preprocessing.normalize(to_batch([preprocessing.resize(image) for image in images]))

    place = select_device(device)
    update_bn(map(batch, batches), model.to(place), place)
    model.to("cpu")
    return f"batch norm's statistics are computed again from {sum(map(len, batches))} of the run's images"
