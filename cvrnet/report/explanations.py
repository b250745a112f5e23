"""The report's section of maps: the most confident right answers and mistakes, and where the network looked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cvrnet.data import read_image
from cvrnet.errors import UserError
from cvrnet.explain.overlay import example_panels
from cvrnet.html import paragraph, thumbnail
from cvrnet.inference import Predictor
from cvrnet.report import Section
from cvrnet.report.mistakes import image_path
from cvrnet.report.report_tables import Row, mistake_rows
from cvrnet.report.results import Results, read_results
from cvrnet.runs.layout import fold_name

TITLE = "Where the network looked"
RIGHT, WRONG = 2, 6  # right answers of each class, and mistakes
TEXT = (
    "Beside each image, Grad-CAM of the predicted class, coloured from 0.6 of its maximum: the evidence for the "
    "answer. A map does not show that the network is right, nor why."
)


def maps_section(folder: Path, predictor: Predictor | None = None) -> Section:
    """Images with their maps, for `cvrnet.report.write_report`.

    In a cross-validation each image is explained by the model of the fold that tested it.

    Args:
        folder: A run, or an evaluation by ``cvrnet evaluate``.
        predictor: The model that was evaluated; by default that of the run.
    """
    results = read_results(folder)
    chosen = {"Surest right answers": right_rows(results), "Surest mistakes": mistake_rows(results.predictions)[:WRONG]}
    rows = [row for part in chosen.values() for row in part]
    if not any(image_path(results.run, row["path"]).is_file() for row in rows):
        return Section(TITLE, paragraph(f"The images are not at {results.run['data']}, so there are no maps of them."))
    try:
        panels = _panels(results, rows, predictor)
    except UserError as error:
        return Section(TITLE, paragraph(f"No maps: {error}."))
    html = paragraph(TEXT)
    for title, part in chosen.items():
        if part:
            figures = "".join(_pair(results.run, row, panels[row["path"]]) for row in part)
            html += f'<h3>{escape(title)}</h3><div class="row">{figures}</div>'
    return Section(TITLE, html)


def right_rows(results: Results) -> list[Row]:
    """The `RIGHT` most probable right answers of each class."""
    p = results.predictions
    right = p.probabilities.argmax(1) == p.labels
    rows = []
    for k, name in enumerate(p.classes):
        numbers = (right & (p.labels == k)).nonzero()[0].tolist()
        for i in sorted(numbers, key=lambda i: (-p.probabilities[i, k], p.names[i]))[:RIGHT]:
            row = {"path": p.names[i], "label": name, "prediction": name, "probability": float(p.probabilities[i, k])}
            rows.append({**row, "source": p.sources[i], "fold": p.folds[i]})
    return rows


def _panels(results: Results, rows: Sequence[Row], predictor: Predictor | None) -> dict[str, Any]:
    """Path of each image to its overlay, or to the sentence that says why it has none."""
    by_fold: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_fold[row["fold"]].append(row)
    panels: dict[str, Any] = {}
    for fold, members in by_fold.items():
        own = results.folder / fold_name(fold) if fold else results.folder
        asked = predictor or Predictor.from_pretrained(own)
        paths = [str(image_path(results.run, row["path"])) for row in members]
        targets = [row["prediction"] for row in members]
        found = example_panels(asked, paths, target=targets)
        panels |= {row["path"]: panel for row, panel in zip(members, found, strict=True)}
    return panels


def _pair(run: Mapping[str, Any], row: Row, panel: Any) -> str:
    lines = [f"{row['label']} called {row['prediction']}, {row['probability']:.3f}", row["source"]]
    if isinstance(panel, str):
        caption = "<br>".join(escape(line) for line in (row["path"], *lines))
        return f'<figure><div class="absent">{escape(panel)}</div><figcaption>{caption}</figcaption></figure>'
    image = thumbnail(read_image(image_path(run, row["path"])), row["path"], lines)
    overlay = thumbnail(panel, "Map", [f"for {row['prediction']}"])
    return f'<div class="pair">{image}{overlay}</div>'
