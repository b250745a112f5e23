"""What was evaluated, on what, and what that can show: the first two sections of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cvrnet.figures.plot_learning import best_row
from cvrnet.html import DISCLAIMER
from cvrnet.report.results import Results
from cvrnet.runs.layout import INDEPENDENT

NOT_NEW = "These scores say nothing about new patients."


def seen_sentence(images: int) -> str:
    """A warning that a model was evaluated on images, or patients, that it was trained on."""
    return f"{images:,} of the images, or their patients, are among those that this model was trained or validated on."


def title(results: Results) -> str:
    """The report's title: the kind of run, the model, and the data set's name, which is that of its folder."""
    kind = {"crossval": "Cross-validation", "train": "Training", "evaluate": "Evaluation"}[results.kind]
    data = Path(results.run["data"])
    name = data.parent.name if data.name == "manifest.csv" and data.parent.name else data.name
    return f"{kind}: {_model_name(results)} on {name}"


def lead(results: Results) -> str:
    """The line below the title."""
    what = {
        "crossval": f"{len(results.folds)} folds, every image tested once by a model that has not seen its patient.",
        "train": f"One training, scored on its {'validation' if results.shown == 'val' else 'test'} images.",
        "evaluate": f"A trained model, scored on {results.scores['n']:,} images.",
    }
    return f"{what[results.kind]} {DISCLAIMER}"


def facts(results: Results) -> dict[str, str]:
    """What was evaluated: a name and a text for each line of a table."""
    run = results.run
    by_class = ", ".join(f"{name} {count:,}" for name, count in run["images"].items())
    return {
        "Images": f"{sum(run['images'].values()):,} ({by_class})",
        "Patients": _patients(results),
        "Sources": ", ".join(results.sources) or "not named",
        "Model": _model_name(results),
        **(_trained_model(run) if results.kind == "evaluate" else _training(results)),
        "Versions": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
    }


def independent_sources(results: Results) -> list[str] | None:
    """The sources that the model was not trained on; None where that is not known."""
    if results.kind == "evaluate":
        return results.run["independent_sources"]
    return [results.run["test_source"]] if results.run.get("test_source") else []


def severe_findings(audit: Mapping[str, Any]) -> list[str]:
    """The sentences of the severe findings in audit.json; empty where the data set was not audited."""
    findings = audit["findings"] if audit else []
    return [finding["sentence"] for finding in findings if finding["severity"] == "severe"]


def floor_rows(results: Results) -> list[dict[str, Any]]:
    """The model's balanced accuracy on every set, and last the audit's floor; empty where the audit has no floor."""
    findings = results.audit["findings"] if results.audit else []
    floor = next((finding["figures"] for finding in findings if finding["code"] == "floor"), None)
    if floor is None:
        return []
    source = results.run.get("test_source") or ""
    names = {"val": "The model on the validation images", "test": "The model on the test images"}
    if source:
        names["test" if results.kind == "train" else INDEPENDENT] = f"The model on {source}"
    rows = []
    for name, scores in results.sets.items():
        low, high = scores["intervals"]["balanced_accuracy"] or (None, None)
        rows.append({"score of": names[name], "value": scores["balanced_accuracy"], "low": low, "high": high})
    value, low, high = (floor[f"balanced_accuracy{end}"] for end in ("", "_low", "_high"))
    return [*rows, {"score of": "The floor", "value": value, "low": low, "high": high}]


def against_floor(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether the model of `floor_rows` is above the floor, and clearly so: with its whole interval."""
    model, floor = rows[0], rows[-1]["value"]
    if model["low"] is not None and model["low"] > floor:
        return "above it"
    return "above it, but not clearly" if model["value"] > floor else "not above it"


def _model_name(results: Results) -> str:
    """The architecture, with its encoders where they were chosen."""
    run = results.run
    if results.kind == "evaluate":
        return str(run["architecture"])
    encoders = run["config"].get("encoders") or ()
    return str(run["config"]["model"]) + (f" ({' + '.join(encoders)})" if encoders else "")


def _patients(results: Results) -> str:
    if results.kind == "evaluate":
        patients = results.predictions.patients
    else:
        patients = [row["patient_id"] for row in results.split]
    known = [patient for patient in patients if patient]
    if not known:
        return "not known; each image counts as a patient of its own"
    without = len(patients) - len(known)
    return f"{len(set(known)):,}" + (f", and {without:,} images whose patient is not known" if without else "")


def _trained_model(run: Mapping[str, Any]) -> dict[str, str]:
    channels, height, width = run["input_size"]
    models = f"{run['models']} models, their probabilities averaged" if run["models"] > 1 else "1 model"
    lines = {
        "Trained model": f"{run['model']} ({models})",
        "Image size": f"{width} × {height}, {channels} channels",
    }
    return lines | ({"Left out": f"{len(run['left_out']):,} images that cannot be read"} if run["left_out"] else {})


def _training(results: Results) -> dict[str, str]:
    config = results.run["config"]
    size, channels = config["img_size"], config["in_chans"]
    start = "weights of ImageNet" if config["pretrained"] else "random weights"
    epochs = f"{_listed(len(history) for history in results.histories)} of at most {config['epochs']}"
    if best := [row for row in map(best_row, results.histories) if row is not None]:
        epochs += f"; best: {_listed(int(row['epoch']) for row in best)}"
    names = {"train": "training", "val": "validation", "test": "test", INDEPENDENT: "independent"}
    sets = Counter(row["fold"] for row in results.split)
    shares = [f"{names.get(fold, f'fold {fold}')} {count:,}" for fold, count in sets.items()]
    return {
        "Image size": f"{size} × {size}, {channels} channel{'s' if channels > 1 else ''}",
        "Training": f"from {start}, {config['optimizer']}, learning rate {config['lr']:g}, seed {config['seed']}",
        "Epochs": epochs,
        "Split (images)": ", ".join(sorted(shares) if results.kind == "crossval" else shares),
    }


def _listed(numbers: Iterable[int]) -> str:
    """One number for each fold."""
    return ", ".join(map(str, numbers))
