"""Make the table of a benchmark, like Table 5 of the second paper, and test the differences between models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cvrnet.encoders.fuse_batch_norm import fuse_batch_norm
from cvrnet.errors import UserError
from cvrnet.figures import plot_comparison, plot_paired, save_figure
from cvrnet.files import slug, write_json, write_sheet, write_text
from cvrnet.formatting import spread
from cvrnet.inference import Predictor
from cvrnet.metrics import corrected_resampled_t_test, holm
from cvrnet.metrics.findings import SCORES
from cvrnet.report.paired import Row, paired_rows
from cvrnet.report.report_tables import paper_scores
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.finding_predictions import FindingTable
from cvrnet.runs.layout import (
    BENCHMARK,
    FIGURES,
    HISTORY,
    INDEPENDENT,
    RUN,
    SPEED,
    SPLIT,
    SUMMARY,
    TABLES,
    fold_folders,
    fold_name,
)
from cvrnet.runs.read import read_json, read_rows
from cvrnet.training import TrainConfig
from cvrnet.workflows.findings import MULTILABEL


class _Layout(NamedTuple):
    """The scores that the table of a benchmark shows and compares."""

    columns: Mapping[str, str]  #: score -> title of its column
    compared: Sequence[str]  #: scores whose differences are tested; the table shows those of the first two
    main: str  #: the score in the figure; the terminal shows the p-value of its difference


_CLASSES = _Layout(
    {
        "recall_weighted": "recall",
        "precision_weighted": "precision",
        "f1_weighted": "F1",
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "f1_macro": "F1 macro",
        "auc_macro": "AUC macro",
    },
    ("accuracy", "balanced_accuracy", "f1_macro", "auc_macro"),
    "balanced_accuracy",
)
_FINDINGS = _Layout(
    {
        "auc_macro": "AUC macro",
        "average_precision": "average precision macro",
        "brier_score": "Brier score",
        "expected_calibration_error": "calibration error",
    },
    ("auc_macro", "average_precision"),
    "auc_macro",
)
METHOD = (
    "Mean ± standard deviation over {folds} folds; {scores}. "
    "Differences are tested on the folds' paired scores with the corrected resampled t-test (Nadeau and Bengio 2003). "
    "Folds share training images, so an ordinary paired t-test would find too many differences. p is adjusted by "
    "Holm's method for the number of models."
)
_WEIGHTED = "recall, precision and F1 weighted by support, as in the papers"
_PAIRED = (
    "Each cell has the AUC on all test images with a known label of the finding. In the columns of the other models, "
    "the difference from {reference}, its 95 % interval and p follow. The test is DeLong's test with patients as "
    "clusters (Obuchowski 1997). It compares only these trained models: after another training, the AUCs would differ. "
    "With many findings, some differences arise by chance."
)


def collect_benchmark(output: Path) -> dict[str, Any]:
    """Write benchmark.json, benchmark.csv, benchmark.md and figures/benchmark.png, which compare the finished models.

    If two or more models of findings are finished, also write tables/paired.csv and figures/paired.png.

    Returns:
        The content of benchmark.json.

    Raises:
        UserError: No model is finished.
    """
    run = read_json(output / RUN)
    runs = {model: output / slug(model) for model in run["models"]}
    done = [m for m, folder in runs.items() if (folder / SUMMARY).is_file() and (folder / SPEED).is_file()]
    if not done:
        raise UserError(f"{output}: no model of this benchmark is finished; --resume continues the benchmark")
    reference = "cvrnet" if "cvrnet" in done else done[0]
    models = {m: _describe(runs[m]) for m in done}
    others = [m for m in done if m != reference]
    # A fold's model is trained on k - 2 of the k folds, and tested on one.
    images, k = len(read_rows(output / SPLIT)), run["folds"]
    n_train, n_test = images * (k - 2) // k, images // k
    layout = _layout(run)
    for score in layout.compared:
        ours = models[reference]["folds"][score]
        tests = []
        for m in others:
            pairs = zip(models[m]["folds"][score], ours, strict=True)
            differences = [a - b for a, b in pairs if a is not None and b is not None]
            tests.append(corrected_resampled_t_test(differences, n_train, n_test))
        for m, test, p in zip(others, tests, holm([test["p"] for test in tests]), strict=True):
            models[m].setdefault("difference", {})[score] = {**test, "p_holm": p}
    independent = (
        (run["test_source"] or "split=test") if any(INDEPENDENT in model for model in models.values()) else None
    )
    result: dict[str, Any] = {
        **({} if layout is _CLASSES else MULTILABEL),
        "reference": reference,
        "folds": k,
        "test_source": run["test_source"] or None,
        "independent": independent,
        "unfinished": [m for m in runs if m not in done],
        "models": models,
    }
    if layout is _FINDINGS and others:
        result["paired"] = _compare_findings(output, run["classes"], {m: runs[m] for m in (reference, *others)})
    rows = benchmark_rows(result)
    write_sheet(output / f"{BENCHMARK}.csv", rows)
    write_text(output / f"{BENCHMARK}.md", _markdown(result, rows))
    save_figure(plot_comparison(result, layout.main), output / FIGURES / f"{BENCHMARK}.png")
    write_json(output / f"{BENCHMARK}.json", result)
    return result


def _layout(described: Mapping[str, Any]) -> _Layout:
    """Return the layout for the content of run.json or benchmark.json."""
    return _FINDINGS if described.get("task") == FindingTable.task else _CLASSES


def _compare_findings(output: Path, findings: Sequence[str], runs: Mapping[str, Path]) -> list[Row]:
    """Compare the models on all folds' test images, for each finding; write tables/paired.csv, figures/paired.png.

    All models have the same folds, and each image is a test image of one fold. So all models predict the same images,
    and the tests are paired.
    """
    tables = {m: FindingTable.read(list(fold_folders(run).values()), findings, "test") for m, run in runs.items()}
    if rows := paired_rows(tables):
        write_sheet(output / TABLES / "paired.csv", rows)
        save_figure(plot_paired(rows), output / FIGURES / "paired.png")
    return rows


def paired_finding_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a table of AUCs: a row for the mean over the findings, a row for each finding, a column for each model.

    The table is empty for a benchmark of classes.
    """
    table: dict[str, dict[str, str]] = {}
    for row in result.get("paired", ()):
        name = row["class"] or "mean"
        cells = table.setdefault(name, {"AUC of": name, row["reference"]: f"{row['other']:.3f}"})
        cells[row["model"]] = f"{row['one']:.3f}, {_difference(row, row['difference'])}"
    return list(table.values())


def benchmark_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the table of a benchmark, one row per model.

    The columns are the scores (mean ± standard deviation), the number of parameters, the training time, the speed, and
    the differences of scores from the reference model.
    """
    rows, layout = [], _layout(result)
    for name, model in result["models"].items():
        row = {"model": name} | {title: spread(model["mean_std"][key]) for key, title in layout.columns.items()}
        if INDEPENDENT in model:
            for key in layout.compared[:2]:
                row[f"{layout.columns[key]} on {result['independent']}"] = spread(model[INDEPENDENT][key])
        row["parameters (M)"] = f"{model['parameters'] / 1e6:.1f}"
        row["training (min)"] = f"{model['training_seconds'] / 60:.1f}"
        row["images/s"] = f"{model['speed']['images_per_second']:.1f}"
        for key in layout.compared[:2]:
            test = model["difference"][key] if "difference" in model else None
            title = f"{layout.columns[key]} minus {result['reference']} [95 % CI], p"
            row[title] = _difference(test, test["mean"]) if test else "-"
        rows.append(row)
    return rows


def _difference(test: Mapping[str, float], value: float) -> str:
    return f"{value:+.3f} [{test['low']:+.3f}, {test['high']:+.3f}], {_p(test)}"


def own_interpolations(own: Mapping[str, str]) -> str:
    """Return a sentence that names each model's interpolation; ``own`` maps models to interpolations.

    >>> own_interpolations({"cvrnet": "nearest", "cvrnet_lite": "bilinear", "resnet50": "nearest"})
    "Images are resized by each model's own interpolation: nearest for cvrnet and resnet50, bilinear for cvrnet_lite."
    """
    parts = [f"{i} for {' and '.join(m for m in own if own[m] == i)}" for i in dict.fromkeys(own.values())]
    return f"Images are resized by each model's own interpolation: {', '.join(parts)}."


def brief_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the columns of `benchmark_rows` that fit a terminal, and a column with the main score's p-values."""
    layout = _layout(result)
    main = layout.columns[layout.main]
    p = f"p against {result['reference']}"
    wanted = ["model", "accuracy", "balanced accuracy", "AUC macro", "average precision macro"]
    wanted += [f"{main} on {result['independent']}", "parameters (M)", "training (min)", "images/s"]
    rows = []
    for full, model in zip(benchmark_rows(result), result["models"].values(), strict=True):
        compared = _p(model["difference"][layout.main]) if "difference" in model else "-"
        rows.append({key: full[key] for key in wanted if key in full} | {p: compared})
    return rows


def _p(test: Mapping[str, float]) -> str:
    return "<0.001" if test["p_holm"] < 0.001 else f"{test['p_holm']:.3f}"


def measure_speed(run: Path, config: TrainConfig, batches: int = 10) -> None:
    """Measure how many images the model of fold 1 classifies per second, and write speed.json.

    The time for decoding is not included. If speed.json exists, do nothing.
    """
    if (run / SPEED).is_file():
        return
    model = load_checkpoint(run / fold_name(1))
    parameters = sum(p.numel() for p in model.parameters())
    predictor = Predictor([fuse_batch_norm(model)], config.device, config.amp)
    images = torch.zeros((config.batch_size, *predictor.preprocessing.input_size), dtype=torch.uint8)
    seconds = []
    for _ in range(batches + 2):
        started = time.perf_counter()
        predictor.probabilities(images)
        seconds.append(time.perf_counter() - started)
    speed = {
        "images_per_second": config.batch_size / float(np.median(seconds[2:])),  # the first two batches are for warm-up
        "batch_size": config.batch_size,
        "device": str(predictor.device),
        "precision": predictor.precision,
        "threads": torch.get_num_threads(),
        "parameters": parameters,
    }
    write_json(run / SPEED, speed)


def _describe(run: Path) -> dict[str, Any]:
    """Return the part of benchmark.json that is about one model, from the files of the model's run."""
    summary, speed = read_json(run / SUMMARY), read_json(run / SPEED)
    layout = _layout(summary)
    folds = [_scores(fold) for fold in summary["folds"]]
    histories = [read_rows(fold / HISTORY) for fold in fold_folders(run).values() if (fold / HISTORY).is_file()]
    model: dict[str, Any] = {
        "mean_std": _scores(summary["mean_std"]),
        "folds": {key: [fold[key] for fold in folds] for key in layout.compared},
        "parameters": speed.pop("parameters"),
        "interpolation": read_json(run / RUN)["config"]["interpolation"],
        "training_seconds": sum(float(row["seconds"]) for rows in histories for row in rows),
        "speed": speed,
    }
    if INDEPENDENT in summary:
        model[INDEPENDENT] = _scores(summary[INDEPENDENT]["mean_std"])
    return model


def _scores(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores that the table shows, from the scores of a fold or from their means over the folds."""
    if "per_finding" in tree:
        return {"auc_macro": tree["macro"]["roc_auc"], **{key: tree["macro"][key] for key in SCORES[1:]}}
    found = {**paper_scores(tree), "balanced_accuracy": tree["balanced_accuracy"]}
    return {key: found[key] for key in _CLASSES.columns}


def _markdown(result: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> str:
    several = _layout(result) is _FINDINGS
    about = "each score is the mean over the findings" if several else _WEIGHTED
    lines = [*_table_lines(rows), "", METHOD.format(**result, scores=about)]
    if paired := paired_finding_rows(result):
        lines += ["", *_table_lines(paired), "", _PAIRED.format(**result)]
    own = {name: model["interpolation"] for name, model in result["models"].items()}
    if len(set(own.values())) > 1:
        lines += ["", own_interpolations(own)]
    if result["unfinished"]:
        lines += ["", f"Not finished: {', '.join(result['unfinished'])}."]
    return "\n".join(lines) + "\n"


def _table_lines(rows: Sequence[Mapping[str, str]]) -> list[str]:
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return lines + ["| " + " | ".join(row.values()) + " |" for row in rows]
