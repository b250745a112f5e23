"""The report's first words: what was evaluated, on what, and what that can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from cvrnet.figures.plot_learning import best_row
from cvrnet.html import DISCLAIMER, details, paragraph, table
from cvrnet.report.report_tables import Row, interval
from cvrnet.report.results import Results
from cvrnet.report.sections import Section
from cvrnet.runs.layout import INDEPENDENT

TITLES = {"crossval": "Cross-validation", "train": "Training", "evaluate": "Evaluation"}
NO_INDEPENDENT = (
    "The images tested come from the sources that the model was trained on. It may have learnt what tells those "
    "sources apart (equipment, borders, compression) in place of disease; expect lower scores elsewhere."
)
NOT_NEW = "These scores say nothing about new patients."


def seen_sentence(images: int) -> str:
    """A warning where a model is evaluated on images, or patients, that it was trained on."""
    return f"{images:,} of the images, or their patients, are among those that this model was trained or validated on."


def lead(results: Results) -> str:
    """One line below the title."""
    what = {
        "crossval": f"{len(results.folds)} folds, every image tested once by a model that has not seen its patient.",
        "train": f"One training, scored on its {'validation' if results.shown == 'val' else 'test'} images.",
        "evaluate": f"A trained model, scored on {results.scores['n']:,} images.",
    }
    return f"{what[results.kind]} {DISCLAIMER}"


def model_name(results: Results) -> str:
    """The architecture, with its encoders where they were chosen."""
    run = results.run
    if results.kind == "evaluate":
        return str(run["architecture"])
    encoders = run["config"].get("encoders") or ()
    return str(run["config"]["model"]) + (f" ({' + '.join(encoders)})" if encoders else "")


def data_name(results: Results) -> str:
    """The data set's name: of its folder."""
    path = Path(results.run["data"])
    return path.parent.name if path.name == "manifest.csv" and path.parent.name else path.name


def what(results: Results) -> Section:
    """What was evaluated, in a table of facts, and the independent source."""
    run = results.run
    by_class = ", ".join(f"{name} {count:,}" for name, count in run["images"].items())
    facts = {
        "Images": f"{sum(run['images'].values()):,} ({by_class})",
        "Patients": _patients(results),
        "Sources": ", ".join(results.sources) or "not named",
        "Model": model_name(results),
        **_training(results),
        "Versions": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
    }
    title, sentence = independent_source(results)
    lines = "".join(
        f"<tr><th scope='row'>{escape(key)}</th><td>{escape(text)}</td></tr>" for key, text in facts.items()
    )
    warning = _seen(results)
    box = "warning" if title.endswith("none") else "good"
    html = (
        f'<table class="facts"><tbody>{lines}</tbody></table>{warning}'
        f'<section class="{box}"><h3>{escape(title)}</h3>{paragraph(sentence)}</section>'
    )
    return Section("What was evaluated", html)


def independent_source(results: Results) -> tuple[str, str]:
    """``Independent source: figure1`` (or ``none``), and one sentence why that matters."""
    names = [results.run["test_source"]] if results.run.get("test_source") else []
    if results.kind == "evaluate":
        names = results.run["independent_sources"]
        if names is None:
            return (
                "Independent source: not known",
                "The model does not say which sources it was trained on. Only sources that it has not seen show what "
                "it is worth elsewhere.",
            )
    if not names:
        return "Independent source: none", NO_INDEPENDENT
    return (
        f"Independent source: {', '.join(names)}",
        "No image of it was trained on. Its scores are the ones that show what the model is worth elsewhere.",
    )


def data_set(results: Results) -> Section:
    """The audit's severe findings, and the model's balanced accuracy beside the audit's floor."""
    title = "What the data set can show"
    if not results.audit:
        text = "The data set was not audited: cvrnet audit tells what a model could learn from it besides disease."
        return Section(title, paragraph(text))
    findings = results.audit["findings"]
    severe = [finding for finding in findings if finding["severity"] == "severe"]
    lines = "".join(f"<li>{escape(finding['sentence'])}</li>" for finding in severe)
    html = f'<section class="severe"><h3>Severe findings of the audit</h3><ul>{lines}</ul></section>' if severe else ""
    html += "" if severe else paragraph("The audit of the data set has no severe finding.")
    floor = next((finding["figures"] for finding in findings if finding["code"] == "floor"), None)
    if floor is None:
        return Section(title, html)
    rows = _floor_rows(results, floor)
    cells = [{"": r["score of"], "Balanced accuracy": interval(r["value"], r["low"], r["high"])} for r in rows]
    model, low = rows[0]["value"], rows[0]["low"]
    beats = low is not None and low > floor["balanced_accuracy"]
    words = (
        "above it" if beats else "above it, but not clearly" if model > floor["balanced_accuracy"] else "not above it"
    )
    text = (
        "The floor is what ridge regression reaches on 32×32 pixels of the whole data set, cross-validated by patient: "
        f"whatever a network adds must show above that. {rows[0]['score of']} is {words}."
    )
    return Section(title, html + table(cells, "scores") + paragraph(text, "note"), {"floor": rows})


def _floor_rows(results: Results, floor: Mapping[str, Any]) -> list[Row]:
    def row(name: str, value: float, low: float | None, high: float | None) -> Row:
        return {"score of": name, "value": value, "low": low, "high": high}

    source = results.run.get("test_source") or ""
    names = {"val": "The model on the validation images", "test": "The model on the test images"}
    if source:
        names["test" if results.kind == "train" else INDEPENDENT] = f"The model on {source}"
    rows = [row(names[name], *_balanced(scores)) for name, scores in results.sets.items()]
    return [*rows, row("The floor", *(floor[f"balanced_accuracy{end}"] for end in ("", "_low", "_high")))]


def _balanced(scores: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    low, high = scores["intervals"]["balanced_accuracy"] or (None, None)
    return scores["balanced_accuracy"], low, high


def protocol(results: Results) -> Section:
    """What it takes to repeat the run."""
    run = results.run
    settings = {"data": run["data"], "data_sha256": run["data_sha256"]}
    settings |= {"model": run["model"]} if results.kind == "evaluate" else run["config"]
    rows = [{"Setting": key, "Value": value} for key, value in settings.items()]
    text = (
        "run.json has these settings, summary.json or metrics.json all numbers, tables/ and figures/ those shown here."
    )
    return Section("To repeat it", paragraph(text) + details("Settings", table(rows)))


def _patients(results: Results) -> str:
    if results.kind == "evaluate":
        ids, images = [p for p in results.predictions.patients if p], len(results.predictions.patients)
    else:
        ids, images = [row["patient_id"] for row in results.split if row["patient_id"]], len(results.split)
    if not ids:
        return "not known; each image counts as a patient of its own"
    without = images - len(ids)
    return f"{len(set(ids)):,}" + (f", and {without:,} images whose patient is not known" if without else "")


def _training(results: Results) -> dict[str, str]:
    run = results.run
    if results.kind == "evaluate":
        channels, height, width = run["input_size"]
        models = f"{run['models']} models, their probabilities averaged" if run["models"] > 1 else "1 model"
        facts = {
            "Trained model": f"{run['model']} ({models})",
            "Image size": f"{width} × {height}, {channels} channels",
        }
        return facts | ({"Left out": f"{len(run['left_out']):,} images that cannot be read"} if run["left_out"] else {})
    config = run["config"]
    size, channels = config["img_size"], config["in_chans"]
    start = "weights of ImageNet" if config["pretrained"] else "random weights"
    names = {"train": "training", "val": "validation", "test": "test", "independent": "independent"}
    sets = Counter(row["fold"] for row in results.split)
    facts = {"Image size": f"{size} × {size}, {channels} channel{'s' if channels > 1 else ''}"}
    facts["Training"] = f"from {start}, {config['optimizer']}, learning rate {config['lr']:g}, seed {config['seed']}"
    facts["Epochs"] = f"{_each(len(history) for history in results.histories)} of at most {config['epochs']}"
    best = [row for row in map(best_row, results.histories) if row is not None]
    facts["Epochs"] += f"; best: {_each(int(row['epoch']) for row in best)}" if best else ""
    shares = [f"{names.get(fold, f'fold {fold}')} {count:,}" for fold, count in sets.items()]
    return facts | {"Split (images)": ", ".join(sorted(shares) if results.kind == "crossval" else shares)}


def _each(numbers: Iterable[int]) -> str:
    """One number for each fold."""
    return ", ".join(str(number) for number in numbers)


def _seen(results: Results) -> str:
    seen = results.run.get("seen_images")
    if not seen:
        return ""
    return f'<section class="severe"><h3>{seen_sentence(seen)}</h3>{paragraph(NOT_NEW)}</section>'
