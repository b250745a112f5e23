"""Make the report's section with the Grad-CAM maps of some images, such as the most confident mistakes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data import read_image
from cvrnet.errors import UserError
from cvrnet.explain import example_panels
from cvrnet.html import Picture, render, small_picture
from cvrnet.inference import Predictor
from cvrnet.report import Section
from cvrnet.report.page import image_path
from cvrnet.report.report_tables import Row, mistake_rows
from cvrnet.report.results import Results, read_results
from cvrnet.runs.layout import fold_name

RIGHT, MOST_RIGHT, WRONG = 2, 12, 6  # at most 2 correct predictions of each class, 12 of all classes; 6 mistakes


def maps_section(folder: Path, predictor: Predictor | None = None) -> Section:
    """Make the report's section that shows images with their maps, for `cvrnet.report.write_report`.

    The folder is a run, or an evaluation of ``predictor`` by ``cvrnet evaluate``. In a cross-validation, the map
    of an image is from the model of the fold that tested the image.
    """
    results = read_results(folder)
    if results.multilabel:
        chosen = {"The most probable image of each finding": _probable_rows(results)}
    else:
        chosen = {
            "Most confident correct predictions": right_rows(results),
            "Most confident mistakes": mistake_rows(results.predictions)[:WRONG],
        }
    return show_maps(folder, results.run, chosen, predictor)


def _probable_rows(results: Results) -> list[Row]:
    """Return a row for each finding: of the images with the finding, the image for which the finding is most probable.

    The most frequent findings come first. No image is returned twice, and there are at most `MOST_RIGHT` rows.
    """
    table, rows = results.predictions, list[Row]()
    for k in np.argsort(-(table.labels == 1).sum(0), kind="stable"):
        has = [i for i in np.flatnonzero(table.labels[:, k] == 1) if table.names[i] not in {r["path"] for r in rows}]
        if has and len(rows) < MOST_RIGHT:
            i = max(has, key=lambda i: (table.probabilities[i, k], table.names[i]))
            row: Row = {"path": table.names[i], "source": table.sources[i], "fold": table.folds[i]}
            row |= {"label": table.label(i), "prediction": table.classes[k]}
            rows.append(row | {"probability": float(table.probabilities[i, k])})
    return rows


def show_maps(
    folder: Path, run: Mapping[str, Any], chosen: Mapping[str, Sequence[Row]], predictor: Predictor | None
) -> Section:
    """Make the section that shows the images in ``chosen`` with their maps.

    ``folder`` is the folder of a run or an evaluation, and ``run`` is its run.json. ``chosen`` maps each heading to its
    images: rows with path, fold, label, prediction, probability and source. ``predictor`` makes the maps or, if it is
    None, the model of the run makes them (in a cross-validation, the model of the image's fold).
    """
    rows = [row for part in chosen.values() for row in part]
    problem, panels = "", {}
    if any(image_path(run, row["path"]).is_file() for row in rows):
        try:
            panels = _panels(folder, run, rows, predictor)
        except UserError as error:
            folder = folder.absolute()
            problem = f"No maps: {str(error).replace(str(folder), folder.name)}."
    else:
        problem = "The images are not where run.json says, so no maps can be shown."
    html = render("maps.html.jinja", problem=problem, chosen=chosen, panels=panels, findings="task" in run)
    return Section("Where the network looked", html)


def right_rows(results: Results) -> list[Row]:
    """Return the most confident correct predictions: at most `RIGHT` of each class, and `MOST_RIGHT` of all classes."""
    p = results.predictions
    rows = [p.row(i) for i in (p.guesses == p.labels).nonzero()[0].tolist()]
    rows.sort(key=lambda row: (-row["probability"], row["path"]))
    by_class: dict[str, list[Row]] = {name: [] for name in p.classes}
    left = MOST_RIGHT
    for row in rows:
        if left and len(by_class[row["label"]]) < RIGHT:
            by_class[row["label"]].append(row)
            left -= 1
    return [row for mine in by_class.values() for row in mine]


def _panels(
    run_folder: Path, run: Mapping[str, Any], rows: Sequence[Row], predictor: Predictor | None
) -> dict[str, tuple[Picture | None, Picture | str]]:
    """Map the path of each image to the image and its overlay, or to None and why there is no overlay."""
    by_fold: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_fold[row["fold"]].append(row)
    panels: dict[str, tuple[Picture | None, Picture | str]] = {}
    for fold, members in by_fold.items():
        folder = run_folder / fold_name(fold) if fold else run_folder
        model = predictor or Predictor.from_pretrained(folder, any_body_part=True)  # the run accepted these files
        paths = [image_path(run, row["path"]) for row in members]
        found = example_panels(model, [str(path) for path in paths], target=[row["prediction"] for row in members])
        for row, path, panel in zip(members, paths, found, strict=True):
            if isinstance(panel, str):
                panels[row["path"]] = None, panel
            else:
                panels[row["path"]] = small_picture(read_image(path, any_body_part=True)), small_picture(panel)
    return panels
