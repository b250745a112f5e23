"""Answers as HTML: tables whose cells hold their own bars, pictures and files within the page. All text is escaped."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.demo.answering import Answer
from cvrnet.demo.viewing import jpeg
from cvrnet.explain.overlay import COLOURS
from cvrnet.html import DISCLAIMER, paragraph

WARNING = "What it says must not be used for diagnosis, or for any decision about a patient."


def header(name: str, description: str, classes: Sequence[str]) -> str:
    """The page's head: which model this is, and what it is not."""
    return (
        f"<header><h1>{escape(name)}</h1>"
        f"{paragraph(f'Tells {_listed(classes)} in chest radiographs apart: {description}.')}"
        f'<p class="warning"><strong>{escape(DISCLAIMER)}</strong> {escape(WARNING)}</p></header>'
    )


def problem(sentence: str) -> str:
    """What went wrong, told at once to those who do not see it."""
    return f'<div class="problem" role="alert"><strong>No answer.</strong> {escape(sentence)}</div>'


def probabilities(answer: Answer, classes: Sequence[str], members: tuple[int, int]) -> str:
    """The answer, each class's probability, and how sure it is."""
    best = int(answer.probabilities.argmax())
    rows = "".join(
        f'<tr{" class=best" if k == best else ""}><th scope="row">{escape(name)}</th>'
        f"<td>{_bar(p)}</td><td>{p:.3f}</td></tr>"
        for k, (name, p) in enumerate(zip(classes, answer.probabilities, strict=True))
    )
    height, width = answer.image.shape[:2]
    return (
        f'<section role="status"><h2>{escape(classes[best])} <span>{answer.probabilities[best]:.3f}</span></h2>'
        f"{paragraph(f'{answer.name}, {width} × {height} pixels', 'note')}"
        f'<table class="bars"><caption>Probability of each class</caption><tbody>{rows}</tbody></table>'
        f"{_uncertainty(answer, len(classes), members)}</section>"
    )


def heads(answer: Answer, classes: Sequence[str]) -> str:
    """Each head's own answer; "" for a model without heads."""
    if answer.heads is None:
        return ""
    names = [f"P{k}" for k in range(1, len(answer.heads) + 1)]
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in classes)
    rows = [(name, row, "") for name, row in zip(names, answer.heads, strict=True)]
    rows.append(("Mean", answer.probabilities, " class=best"))
    body = "".join(
        f'<tr{style}><th scope="row">{name}</th>{"".join(f"<td>{p:.2f}{_bar(p)}</td>" for p in row)}</tr>'
        for name, row, style in rows
    )
    return (
        "<section><h2>Head by head</h2>"
        f"{paragraph('Each head looks at other feature maps. Their mean is the answer.', 'note')}"
        f'<div class="wide" tabindex="0" role="region" aria-label="Head by head"><table class="heads">'
        f"<caption>Probability of each class from each head</caption>"
        f'<thead><tr><th scope="col">Head</th>{columns}</tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def overlay(picture: NDArray[np.uint8], target: str, part: str, threshold: float) -> str:
    """A picture with a map on it, and what its colours mean."""
    return (
        f"{_figure(picture, f'The radiograph. Coloured: where the {part} found evidence for {target}.')}"
        f'<div class="scale"><span>{threshold:.2f}</span><i style="background:linear-gradient(90deg,{_viridis()})"></i>'
        f"<span>1.00</span></div>"
        f"{paragraph(f'Colour: where evidence for {target} lies, from {threshold:.2f} of the map’s maximum.', 'note')}"
    )


def plain(picture: NDArray[np.uint8], sentence: str) -> str:
    """A picture without a map, and why."""
    return f"{_figure(picture, 'The radiograph.')}{paragraph(f'No map: {sentence}.', 'note')}"


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Many images' answers, first those that could not be read, and all of them as a CSV file to download."""
    unread = [row for row in rows if row["error"]]
    found = Counter(row["prediction"] for row in rows if not row["error"])
    counts = ", ".join(f"{n} {name}" for name, n in sorted(found.items()))
    told = paragraph(f"{len(rows) - len(unread)} of {len(rows)} images answered{f': {counts}' if counts else ''}.")
    if unread:
        items = "".join(f"<li><b>{escape(row['path'])}</b>: {escape(row['error'])}</li>" for row in unread)
        told += f'<div class="problem" role="alert"><strong>Not read: {len(unread)}.</strong><ul>{items}</ul></div>'
    shown = [name for name in columns if name != "error"]
    head = "".join(
        f'<th scope="col"{"" if k < 2 else " class=number"}>{escape(name.removeprefix("prob_").replace("_", " "))}</th>'
        for k, name in enumerate(shown)
    )
    body = "".join(f"<tr>{''.join(_cell(row[name]) for name in shown)}</tr>" for row in rows if not row["error"])
    results = (
        '<div class="wide" tabindex="0" role="region" aria-label="Answers"><table class="answers"><caption>Answers'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        if body
        else ""
    )
    return f'<section role="status">{told}{_download(columns, rows)}{results}</section>'


def _download(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A link that holds the file itself: none is kept for it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    data = base64.b64encode(text.getvalue().encode()).decode()
    return (
        f'<p><a class="download" download="predictions.csv" href="data:text/csv;charset=utf-8;base64,{data}">'
        "Download predictions.csv</a></p>"
    )


def _uncertainty(answer: Answer, classes: int, members: tuple[int, int]) -> str:
    most, (folds, each) = math.log(classes), members
    told = (
        f"<dt>Uncertainty</dt><dd>{_bar(answer.predictive_entropy / most)}<b>{answer.predictive_entropy:.2f}</b> nats, "
        f"predictive entropy: 0 for a certain answer, {most:.2f} where all {classes} classes are equally probable</dd>"
    )
    if folds * each > 1:
        each_other = " × ".join(f"{n} {name}" for n, name in ((folds, "folds"), (each, "heads")) if n > 1)
        told += (
            f"<dt>Disagreement</dt><dd>{_bar(answer.mutual_information / most)}<b>{answer.mutual_information:.2f}</b> "
            f"nats, mutual information: how far {each_other} contradict each other</dd>"
        )
    return f"<dl>{told}</dl>"


def _bar(share: float) -> str:
    return f'<i class="bar" aria-hidden="true"><i style="width:{100 * min(max(share, 0), 1):.1f}%"></i></i>'


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.3f}</td>'
    return f"<td>{escape('' if value is None else str(value))}</td>"


def _figure(picture: NDArray[np.uint8], description: str) -> str:
    height, width = picture.shape[:2]
    return (
        f'<img class="film" alt="{escape(description)}" width="{width}" height="{height}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(jpeg(picture)).decode()}">'
    )


def _viridis() -> str:
    return ",".join(f"rgb({','.join(str(round(float(c))) for c in colour)})" for colour in COLOURS[::2])


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
