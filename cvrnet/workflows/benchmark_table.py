"""The table of a benchmark: v2's Table 5, with tests of the differences."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cvrnet.errors import UserError
from cvrnet.figures import plot_comparison, save_figure
from cvrnet.files import slug, write_csv, write_json, write_text
from cvrnet.formatting import spread
from cvrnet.inference import Predictor
from cvrnet.inference.fuse_batch_norm import fuse_batch_norm
from cvrnet.metrics import corrected_resampled_t_test, holm
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.layout import BENCHMARK, FIGURES, HISTORY, INDEPENDENT, RUN, SPEED, SPLIT, SUMMARY, fold_name
from cvrnet.runs.read import read_json, read_rows
from cvrnet.training import TrainConfig

SCORES = ("accuracy", "balanced_accuracy", "f1_macro", "auc_macro")


def collect_benchmark(output: Path) -> dict[str, Any]:
    """Join the models that are finished: benchmark.json, benchmark.csv, benchmark.md and the figure.

    Raises:
        UserError: It is no benchmark, or no model is finished.
    """
    models = benchmark_models(output)
    done = [m for m in models if all((output / slug(m) / name).is_file() for name in (SUMMARY, SPEED))]
    if not done:
        raise UserError(f"{output}: no model of this benchmark is finished; --resume goes on with it")
    run = read_json(output / RUN)
    reference = "cvrnet" if "cvrnet" in done else done[0]
    result: dict[str, Any] = {
        "reference": reference,
        "folds": run["folds"],
        "test_source": run["test_source"] or None,
        "unfinished": [m for m in models if m not in done],
        "models": {m: _describe(output / slug(m)) for m in done},
    }
    parts = _fold_sizes(output / SPLIT)
    others = [m for m in done if m != reference]
    for score in SCORES:
        ours = result["models"][reference]["folds"][score]
        tests = {m: _compare(result["models"][m]["folds"][score], ours, *parts) for m in others}
        adjusted = dict(zip(others, holm([test["p"] for test in tests.values()]), strict=True)) if others else {}
        for m, test in tests.items():
            result["models"][m].setdefault("difference", {})[score] = {**test, "p_holm": adjusted[m]}
    rows = benchmark_rows(result)
    write_csv(output / f"{BENCHMARK}.csv", rows)
    write_text(output / f"{BENCHMARK}.md", _markdown(result, rows))
    save_figure(plot_comparison(result, "balanced_accuracy"), output / FIGURES / f"{BENCHMARK}.png")
    write_json(output / f"{BENCHMARK}.json", result)
    return result


def benchmark_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table as v2 prints it, a row a model: mean ± standard deviation over the folds, then size, time and speed."""
    rows = []
    for name, model in result["models"].items():
        row = {"model": name}
        for key, title in _COLUMNS.items():
            row[title] = spread(model["mean_std"][key])
        for key in ("accuracy", "balanced_accuracy"):
            if result["test_source"]:
                row[f"{key.replace('_', ' ')} on {result['test_source']}"] = spread(model[INDEPENDENT][key])
        row["parameters (M)"] = f"{model['parameters'] / 1e6:.1f}"
        row["training (min)"] = f"{model['training_seconds'] / 60:.1f}"
        row["images/s"] = f"{model['speed']['images_per_second']:.1f}"
        for key in ("accuracy", "balanced_accuracy"):
            test = model.get("difference", {}).get(key)
            title = f"{key.replace('_', ' ')} less {result['reference']}'s [95 % CI], p"
            row[title] = f"{test['mean']:+.3f} [{test['low']:+.3f}, {test['high']:+.3f}], {_p(test)}" if test else "-"
        rows.append(row)
    return rows


def brief_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """The columns of the table that fit a terminal."""
    wanted = ("model", "accuracy", "balanced accuracy", "AUC macro", "parameters (M)", "training (min)", "images/s")
    p, outside = f"p against {result['reference']}", f"balanced accuracy on {result['test_source']}"
    rows = []
    for full, model in zip(benchmark_rows(result), result["models"].values(), strict=True):
        test = model.get("difference", {}).get("balanced_accuracy")
        row = {key: full[key] for key in wanted[:4]} | ({outside: full[outside]} if outside in full else {})
        rows.append(row | {key: full[key] for key in wanted[4:]} | {p: _p(test) if test else "-"})
    return rows


def _p(test: Mapping[str, float]) -> str:
    return "<0.001" if test["p_holm"] < 0.001 else f"{test['p_holm']:.3f}"


_COLUMNS = {
    "recall_weighted": "recall",
    "precision_weighted": "precision",
    "f1_weighted": "F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "F1 macro",
    "auc_macro": "AUC macro",
}


def measure_speed(run: Path, config: TrainConfig, batches: int = 10) -> dict[str, Any]:
    """Images a second that fold 1 classifies (decoded, at the batch size of the protocol); measured once a run."""
    if (run / SPEED).is_file():
        return read_json(run / SPEED)
    model = load_checkpoint(run / fold_name(1))
    parameters = sum(p.numel() for p in model.parameters())
    predictor = Predictor([fuse_batch_norm(model)], device=config.device)
    size = predictor.preprocessing.input_size
    images = torch.zeros((config.batch_size, *size), dtype=torch.uint8)
    seconds = []
    for _ in range(batches + 2):
        started = time.perf_counter()
        predictor.probabilities(images)
        seconds.append(time.perf_counter() - started)
    speed = {
        "images_per_second": config.batch_size / float(np.median(seconds[2:])),
        "batch_size": config.batch_size,
        "device": str(predictor.device),
        "precision": predictor.precision,
        "threads": torch.get_num_threads(),
        "parameters": parameters,
    }
    write_json(run / SPEED, speed)
    return speed


def _describe(run: Path) -> dict[str, Any]:
    """What the table says of one model, from its run."""
    summary = read_json(run / SUMMARY)
    speed = read_json(run / SPEED)
    folds = [_scores(fold) for fold in summary["folds"]]
    model: dict[str, Any] = {
        "mean_std": _scores(summary["mean_std"]),
        "folds": {key: [fold[key] for fold in folds] for key in SCORES},
        "parameters": speed.pop("parameters"),
        "training_seconds": sum(_seconds(path) for path in run.glob(f"{fold_name('*')}/{HISTORY}")),
        "speed": speed,
    }
    if INDEPENDENT in summary:
        model[INDEPENDENT] = _scores(summary[INDEPENDENT]["mean_std"])
    return model


def _scores(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "accuracy": tree["accuracy"],
        "balanced_accuracy": tree["balanced_accuracy"],
        **{f"{key}_weighted": tree["weighted"][key] for key in ("recall", "precision", "f1")},
        "f1_macro": tree["macro"]["f1"],
        "auc_macro": tree["macro"]["roc_auc"],
    }


def _compare(theirs: Sequence[float | None], ours: Sequence[float | None], n_train: int, n_test: int) -> dict[str, Any]:
    pairs = [(a, b) for a, b in zip(theirs, ours, strict=True) if a is not None and b is not None]
    return corrected_resampled_t_test([a - b for a, b in pairs], n_train, n_test)


def _fold_sizes(split: Path) -> tuple[int, int]:
    """Images that a fold's model is trained and tested on: k - 2 and 1 of the k folds."""
    folds = [row["fold"] for row in read_rows(split)]
    k = len(set(folds))
    return len(folds) * (k - 2) // k, len(folds) // k


def _seconds(history: Path) -> float:
    return sum(float(row["seconds"]) for row in read_rows(history))


def _markdown(result: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> str:
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    lines += ["", METHOD.format(**result)]
    if result["unfinished"]:
        lines += ["", f"Not finished: {', '.join(result['unfinished'])}."]
    return "\n".join(lines) + "\n"


METHOD = (
    "Mean ± standard deviation over {folds} folds; recall, precision and F1 weighted by support, as in the papers. "
    "Differences: corrected resampled t-test (Nadeau and Bengio 2003) on the folds' paired scores, because folds share "
    "training images and an ordinary paired t-test would find differences that are not there; p adjusted by Holm's "
    "method for the number of models."
)


def benchmark_models(output: Path) -> list[str]:
    """The models that a benchmark's folder names; none if there is no such folder.

    Raises:
        UserError: The folder holds another run.
    """
    if not (output / RUN).is_file():
        return []
    run = read_json(output / RUN)
    if run.get("kind") != BENCHMARK:
        raise UserError(f"{output} is not a benchmark; choose another folder")
    return list(run["models"])
