"""Make the report's sections for a run that predicts bags of pictures (studies or patients)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cvrnet.data import read_image
from cvrnet.errors import UserError
from cvrnet.explain.explain_studies import TOP, picture_overlay
from cvrnet.figures import plot_attention, save_figure
from cvrnet.html import Picture, figure_picture, render, small_picture
from cvrnet.inference import Predictor
from cvrnet.report import Section
from cvrnet.report.operating_points import operating_points_section
from cvrnet.report.outcome import outcome_section
from cvrnet.report.results import Results
from cvrnet.report.selective import selective_section
from cvrnet.report.subgroups import subgroups_section
from cvrnet.report.write import image_path
from cvrnet.runs.attention import StudyAttention, read_attention, score_attention
from cvrnet.runs.layout import FIGURES, fold_name

SHOWN = 4  # at most this many bags of each label are shown
MOST = 8  # at most this many bags of all labels together are shown


def bag_sections(results: Results, maps: bool, predictor: Predictor | None = None) -> list[Section]:
    """Make the sections of a report about bags of pictures, for `cvrnet.report.write_report`.

    With ``maps``, some pictures are shown with Grad-CAM maps. ``predictor`` makes the maps or, if it is None, the
    models of the run make them.
    """
    sections = [
        outcome_section(results),
        subgroups_section(results),
        operating_points_section(results),
        selective_section(results),
        attention_section(results, maps, predictor),
    ]
    return [section for section in sections if section is not None]


def attention_section(results: Results, maps: bool, predictor: Predictor | None = None) -> Section:
    """Make the section "Which pictures counted" of a report: which pictures mattered for the prediction of a bag.

    A picture's share is its part of the bag's attention. If lesions are marked, the section says whether pictures with
    a lesion have larger shares than the other pictures. For some bags, it shows the shares, the pictures with the
    largest shares and, with ``maps``, their Grad-CAM maps.
    """
    found = read_attention(results.folders, results.shown)
    chosen = _examples(results, found)
    bags = [(bag.study, bag.shares, bag.lesions, bag.days) for bag in chosen]
    models = _models(results, chosen, predictor) if maps else {}
    path = results.folder / FIGURES / "attention.png"
    save_figure(plot_attention(bags), path)
    html = render(
        "attention.html.jinja",
        scores=score_attention(found),
        figure=figure_picture(path.read_bytes()),
        examples=[(bag, _pictures(results, bag, models.get(bag.study))) for bag in chosen],
        pooling=results.run["pooling"],
        maps=maps,
    )
    return Section("Which pictures counted", html)


def _examples(results: Results, found: Sequence[StudyAttention]) -> list[StudyAttention]:
    """Choose some bags: for each label, the bags with the most confident correct predictions."""
    table = results.predictions
    by_name = {bag.study: bag for bag in found}
    rows = [table.row(i) for i in (table.guesses == table.labels).nonzero()[0].tolist()] or [table.row(0)]
    rows.sort(key=lambda row: (-row["probability"], row["path"]))
    chosen: list[StudyAttention] = []
    for name in table.classes:
        mine = [by_name[row["path"]] for row in rows if row["label"] == name and row["path"] in by_name]
        chosen += mine[: min(SHOWN, max(1, MOST // len(table.classes)))]
    return chosen[:MOST] or list(found[:1])


def _models(results: Results, chosen: Sequence[StudyAttention], predictor: Predictor | None) -> dict[str, Predictor]:
    """Map the name of each bag to its model: ``predictor`` or, if it is None, the model that predicted the bag."""
    folds = dict(zip(results.predictions.names, results.predictions.folds, strict=True))
    folders = {b.study: results.folder / (fold_name(folds[b.study]) if folds[b.study] else "") for b in chosen}
    loaded = {
        folder: predictor or Predictor.from_pretrained(folder, any_body_part=True) for folder in {*folders.values()}
    }
    return {study: loaded[folder] for study, folder in folders.items()}


def _pictures(
    results: Results, bag: StudyAttention, model: Predictor | None
) -> list[tuple[str, str, Picture | str, Picture | None]]:
    """Return the `TOP` pictures of a bag: path, a line of text, the picture (or why it is missing), and its map."""
    shown = []
    for i in bag.order[:TOP]:
        line = f"share {bag.shares[i]:.2f}" + (
            f", {bag.days[i]:g} days before the last picture" if any(bag.days) else ""
        )
        line += ", has a lesion" if bag.lesions[i] else ""
        path = image_path(results.run, bag.paths[i])
        try:
            picture: Picture | str = small_picture(read_image(path, any_body_part=True))
            overlay = None if model is None else _map(model, path, results, bag)
        except UserError:
            picture, overlay = "image not found", None
        shown.append((bag.paths[i], line, picture, overlay))
    return shown


def _map(predictor: Predictor, path: Path, results: Results, bag: StudyAttention) -> Picture | None:
    """Return Grad-CAM of one picture, as if it were alone in its bag, for the class predicted for the whole bag.

    The result is None if no map can be made.
    """
    table = results.predictions
    target = table.classes[int(table.guesses[table.names.index(bag.study)])]
    overlay = picture_overlay(predictor, predictor.preprocessing.read(path), target)
    return None if isinstance(overlay, str) else small_picture(overlay)
