"""Find pictures that are probably wrong: blank, badly exposed, turned, inverted, or not chest radiographs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from cvrnet.audit.findings import Finding
from cvrnet.audit.image_features import MIN_IMAGES
from cvrnet.audit.measurements import Measurements
from cvrnet.audit.orientation import WAYS, orientation_margins
from cvrnet.data.splits import patient_keys
from cvrnet.formatting import count

MIN_SPREAD = 4.0  # standard deviation of the grey values of a small copy; below it, a picture is blank
MIN_ENTROPY = 1.75  # entropy of 32 grey levels, in nats; radiographs had 1.86 to 3.4, pages of text 0.5 to 1
BELOW = 0.5  # a bad exposure also has an entropy at least this far below the median of the data set
MAX_CLIPPED = 0.6  # largest share of black and white pixels together
MIN_MARGIN = 0.5  # least margin of `orientation_margins`: half the margin of a turned film
OUTLIER = 5.5  # robust standard deviations; the oddest of 1,552 radiographs had 5.0, the least odd photograph 6.1
MIN_NEIGHBOURS, NEAR = 10, 0.05  # number of neighbours: this share of the images, but at least MIN_NEIGHBOURS
MAX_REFERENCES = 3000  # images among which neighbours are searched, so the cost grows in proportion to the data set

ADVICE = "Look at these images: remove those that are not chest radiographs; rotate, invert or re-export the rest."


def wrong_picture_findings(measured: Measurements, features: np.ndarray | str, seed: int = 0) -> list[Finding]:
    """Find the pictures that are probably wrong, and say what is wrong with each.

    ``features`` is the result of `image_features`: an array (n, 2, d), of which only the means [:, 0] are used, or a
    text that says why there are no features. Without features, pictures unlike the others are not searched for.
    """
    code, records = "wrong-pictures", measured.records
    if len(records) < MIN_IMAGES:
        sentence = f"Pictures were not checked: this needs at least {MIN_IMAGES} images."
        return [Finding(code, "note", sentence)]
    pixels = np.array([facts.vectors["pixels"] for facts in measured.facts], np.float32)
    problems = _exposure(measured)
    odd = np.zeros(len(records)) if isinstance(features, str) else unlikeness(features[:, 0], seed)
    side = round(pixels.shape[1] ** 0.5)
    patients = np.array(patient_keys(records))
    margins, ways = orientation_margins(pixels.reshape(-1, side, side), patients, seed)
    for i in np.flatnonzero(odd > OUTLIER):
        problems.setdefault(int(i), ("unlike the others, perhaps not a chest radiograph", float(odd[i])))
    for i in np.flatnonzero(margins > MIN_MARGIN):
        problems.setdefault(int(i), (WAYS[ways[i]], float(margins[i])))
    searched, left = "turned, inverted or unlike all others", ""
    if isinstance(features, str):
        searched, left = "turned or inverted", f" Pictures unlike the others were not searched for: {features}."
    if not problems:
        return [Finding(code, "note", f"No picture looks blank, badly exposed, {searched}.{left}")]
    rows: list[dict[str, Any]] = [
        {"path": records[i].name, "problem": problem, "score": round(score, 2)}
        for i, (problem, score) in sorted(problems.items(), key=lambda item: (item[1][0], -item[1][1], item[0]))
    ]
    kinds = ", ".join(f"{number} {kind}" for kind, number in Counter(row["problem"] for row in rows).most_common())
    wrong = "picture is probably wrong", "pictures are probably wrong"
    sentence = f"{count(len(rows), *wrong)}: {kinds}.{left}"
    return [Finding(code, "warning", sentence, {"table": rows}, tuple(row["path"] for row in rows), ADVICE)]


def unlikeness(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return how far each image is from its neighbours, compared with the median, in robust standard deviations, (n,).

    ``features`` are (n, d). The distance of an image is its mean distance to the nearest twentieth of the images, or to
    the nearest ten if a twentieth is less (Angiulli and Pizzuti, PKDD 2002). Its logarithm is compared with the median
    over the images, in units of the robust standard deviation (1.4826 times the median absolute deviation). If there
    are more than `MAX_REFERENCES` images, the neighbours are the nearest twentieth of this number of randomly drawn
    images.
    """
    n = len(features)
    references = features[np.sort(np.random.default_rng(seed).permutation(n)[:MAX_REFERENCES])]
    # With fewer neighbours, wrong pictures of one kind could have only each other as neighbours, and not look odd.
    number = max(MIN_NEIGHBOURS, round(NEAR * len(references)))
    distances = NearestNeighbors(n_neighbors=number + 1).fit(references).kneighbors(features)[0]
    # The nearest neighbour is left out, because it is usually the image itself.
    far = np.log(np.maximum(distances[:, 1:].mean(1), 1e-6))
    middle = np.median(far)
    return (far - middle) / max(1.4826 * float(np.median(abs(far - middle))), 1e-6)


def _exposure(measured: Measurements) -> dict[int, tuple[str, float]]:
    """Map the index of each blank or badly exposed picture to what is wrong, and the number that shows it."""
    found: dict[int, tuple[str, float]] = {}
    shares = np.array([facts.vectors["histogram"] for facts in measured.facts], np.float64) ** 2
    shares /= np.maximum(shares.sum(1, keepdims=True), 1e-9)  # shares of the pixels; `measure` stores square roots
    entropies = -(shares * np.log(np.maximum(shares, 1e-12))).sum(1)
    lowest = min(MIN_ENTROPY, float(np.median(entropies)) - BELOW)
    for i, facts in enumerate(measured.facts):
        clipped, mean = float(shares[i, 0] + shares[i, -1]), float(facts.vectors["pixels"].mean())
        if (spread := float(measured.thumbnail(i).std())) < MIN_SPREAD:
            found[i] = "blank", spread
        elif clipped > MAX_CLIPPED:
            found[i] = "mostly black or white, perhaps a page of text", clipped
        elif entropies[i] < lowest:
            kind = "very dark" if mean < 64 else "very bright" if mean > 191 else "with very few grey values"
            found[i] = kind, float(entropies[i])
    return found
