"""Make the texts of the report's first two sections: the model, the data, and what the result can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from cvrnet.figures.style import MOST_CLASSES
from cvrnet.formatting import count, counts
from cvrnet.report.results import Results
from cvrnet.runs.layout import INDEPENDENT

NOT_NEW = "These scores say nothing about new patients."


def seen_sentence(images: int, model: str = "this model") -> str:
    """Return a warning that a model was evaluated on images or patients that it was trained or validated on."""
    return f"{images:,} of the images, or their patients, were used to train or validate {model}."


def model_name(results: Results) -> str:
    """Return the architecture's name, with the encoders if the user chose them."""
    run = results.run
    if results.kind == "evaluate":
        return str(run["architecture"])
    encoders = run["config"].get("encoders") or ()
    return str(without_folders(run["config"]["model"])) + (f" ({' + '.join(encoders)})" if encoders else "")


def data_name(run: Mapping[str, Any]) -> str:
    """Return the data set's name: the name of its folder or of its manifest."""
    path = Path(run["data"])
    folder = path.parent if path.name == "manifest.csv" and path.parent.name else path
    return "~" if folder == Path.home() else folder.name  # the home folder's name is the user's name


def without_folders(value: Any) -> Any:
    r"""Return a setting without the folders in its path, because the user may give the report to others.

    >>> without_folders("local-dir:/home/ada/run"), without_folders(r"C:\ada\run"), without_folders("hf-hub:ada/chest")
    ('local-dir:run', 'run', 'hf-hub:ada/chest')
    """
    if not isinstance(value, str):
        return value
    scheme, colon, path = value.rpartition("local-dir:")
    parts = PurePosixPath(path), PureWindowsPath(path)
    return next((f"{scheme}{colon}{p.name}" for p in parts if p.is_absolute() or {"..", "~"} & set(p.parts)), value)


def images(results: Results) -> str:
    """Return a text with the number of all images, and the number of images of each class or finding.

    With more than `MOST_CLASSES` classes or findings, the text gives only how many classes or findings there are.
    """
    named = results.run["images"]
    many = f"{len(named)} {'findings' if results.multilabel else 'classes'}"
    listed = many if len(named) > MOST_CLASSES else f"{'with ' * results.multilabel}{counts(named)}"
    total = len(results.split or results.predictions.names) if results.multilabel else sum(named.values())
    return f"{total:,} ({listed})"


def patients(results: Results) -> str:
    """Return a text with the number of known patients, and the number of images whose patient is not known."""
    evaluated = results.kind == "evaluate"
    ids = results.predictions.patients if evaluated else [row["patient_id"] for row in results.split]
    known = [patient for patient in ids if patient]
    if not known:
        return "not known; each image counts as a separate patient"
    without = len(ids) - len(known)
    return f"{len(set(known)):,}" + (f", and {count(without, 'image')} whose patient is not known" if without else "")


def set_sizes(results: Results) -> list[str]:
    """Return the name of each set or fold with its number of images."""
    sizes = Counter(row["fold"] for row in results.split)
    names = {name: f"fold {name}" for name in sizes if name.isdigit()} | {"train": "training", "val": "validation"}
    listed = [f"{names.get(name, name)} {size:,}" for name, size in sizes.items()]
    return sorted(listed) if results.kind == "crossval" else listed


def independent_sources(results: Results) -> list[str] | None:
    """Return the sources that the model was not trained or validated on; None if they are not known."""
    if results.kind == "evaluate":
        return results.run["independent_sources"]
    outside = (INDEPENDENT, "test")  # in a single training, version 0.1 called the independent set ``test``
    seen = {row["source"] for row in results.split if row["fold"] not in outside}
    return sorted({row["source"] for row in results.split} - seen - {""})


def severe_findings(audit: Mapping[str, Any]) -> list[str]:
    """Return the sentences of the severe problems in audit.json; an empty list if the data set was not audited."""
    findings = audit["findings"] if audit else []
    return [finding["sentence"] for finding in findings if finding["severity"] == "severe"]


def floor_rows(results: Results) -> list[dict[str, Any]]:
    """Return rows with the model's balanced accuracy on every set and, last, the floor.

    The floor is the balanced accuracy of the audit's simple model, ridge regression on images of 32x32 pixels. If the
    audit has no floor, there are no rows.
    """
    findings = results.audit["findings"] if results.audit else []
    floor = next((finding["figures"] for finding in findings if finding["code"] == "floor"), None)
    if floor is None:
        return []
    names = {"val": "the validation images", "test": "the test images", INDEPENDENT: results.held_back}
    rows = []
    for name, scores in results.sets.items():
        low, high = scores["intervals"]["balanced_accuracy"] or (None, None)
        score_of = f"The model on {names[name]}"
        rows.append({"score of": score_of, "value": scores["balanced_accuracy"], "low": low, "high": high})
    value, low, high = (floor[f"balanced_accuracy{end}"] for end in ("", "_low", "_high"))
    return [*rows, {"score of": "The floor", "value": value, "low": low, "high": high}]


def against_floor(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a text that says whether the first score in `floor_rows` is above the floor.

    The text is "above the floor", "not above the floor" or "above the floor, but not clearly". It is the last of
    these if the score is above the floor, but the lower end of its interval is not known, or is not above the floor.
    """
    model, floor = rows[0], rows[-1]["value"]
    if model["low"] is not None and model["low"] > floor:
        return "above the floor"
    return "above the floor, but not clearly" if model["value"] > floor else "not above the floor"
