"""Draw how much each picture of a bag contributed, and where the network looked (extra ``train``).

A bag holds the pictures of a study or patient (see `cvrnet.data.studies`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvrnet.data.studies import Study
from cvrnet.errors import UserError
from cvrnet.explain.explaining import enlarge, explain_classes
from cvrnet.explain.gradcam import NETWORK
from cvrnet.explain.overlay import THRESHOLD, draw_overlay
from cvrnet.figures import plot_attention, save_figure
from cvrnet.files import atomic_write, slug
from cvrnet.inference import Predictor
from cvrnet.inference.study_predictor import StudyPrediction, StudyPredictor
from cvrnet.runs.attention import attention_of

TOP = 3  # number of pictures of a bag whose maps are drawn


def draw_studies(
    predictor: Predictor,
    studies: Sequence[Study],
    output: Path,
    *,
    target: str | None = None,
    threshold: float = THRESHOLD,
    batch_size: int = 8,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Draw each bag: bars of its pictures' attention, and Grad-CAM overlays of the pictures with the most attention.

    Each picture is explained as a bag of one picture, for the class ``target``; by default, for the class that is
    predicted for the whole bag. ``threshold`` is as in `draw_overlay`. ``progress`` is called after each bag with the
    number of bags done and the total.

    Yields:
        A row and a list of problems for each explained picture. In each bag, the pictures with the most attention are
        explained, at most `TOP`. The row has ``path`` (the picture), ``study``, ``prediction``, ``class``,
        ``probability`` of that class, ``attention``, and the file names ``figure`` (the bars) and ``network`` (the
        overlay). A bag that has no prediction has one row, whose ``path`` is the name of the study.

    Raises:
        UserError: The model does not know the class.
    """
    if target is not None and target not in predictor.classes:
        raise UserError(f"the model does not know the class {target}; expected {', '.join(predictor.classes)}")
    names = study_files(studies)
    stream = StudyPredictor(predictor).stream(studies, batch_size=batch_size)
    for done, (name, answer) in enumerate(zip(names, stream, strict=True), start=1):
        yield from _draw(predictor, answer, output, name, target, threshold)
        progress(done, len(studies))


def study_files(studies: Sequence[Study]) -> list[str]:
    """Return, for each bag, the prefix of the names of the files that are written for it."""
    names = [slug(study.name) for study in studies]
    return [name if names.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(names, start=1)]


def picture_overlay(
    predictor: Predictor, image: NDArray[np.uint8], target: str, threshold: float = THRESHOLD
) -> NDArray[np.uint8] | str:
    """Return the overlay of a picture, uint8 (H, W, 3), or a sentence that says why it has no overlay.

    The picture is explained as a bag of one picture.
    """
    cam: Any = explain_classes(predictor, image, [target], [NETWORK])[target][NETWORK]
    return cam if isinstance(cam, str) else draw_overlay(image, enlarge(cam, image.shape[:2]), threshold=threshold)


def _draw(
    predictor: Predictor, answer: StudyPrediction, output: Path, name: str, target: str | None, threshold: float
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    study, prediction = answer.study, answer.prediction
    row: dict[str, Any] = {"path": study.name, "study": study.name, "prediction": prediction.label}
    if prediction.error:
        columns = ("class", "probability", "attention", "figure", "network")
        yield row | dict.fromkeys(columns), [prediction.error, *answer.problems]
        return
    chosen = target or prediction.label
    row |= {"class": chosen, "probability": float(prediction.probabilities[predictor.classes.index(chosen)])}
    (bag,) = attention_of([study], [answer.shares], "")
    figure = f"{name}-attention.png"
    save_figure(plot_attention([(bag.study, bag.shares, bag.lesions, bag.days)]), output / figure)
    for place, i in enumerate(bag.order[:TOP], start=1):
        picture = study.pictures[i]
        image = predictor.preprocessing.read(picture.path)
        overlay = picture_overlay(predictor, image, chosen, threshold)
        drawn, problems = None, list(answer.problems) if place == 1 else []
        if isinstance(overlay, str):
            problems.append(f"{picture.name}: {overlay}")
        else:
            drawn = f"{name}-{place}-{NETWORK}.png"
            with atomic_write(output / drawn) as temporary:
                Image.fromarray(overlay).save(temporary, format="PNG")
        mine = {"path": picture.name, "attention": float(bag.shares[i]), "figure": figure, "network": drawn}
        yield row | mine, problems
