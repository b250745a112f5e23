"""Compare models that predict one label for a bag, such as all slices of a CT, on phantoms (synthetic images).

python benchmarks/studies.py [FOLDER]        default: a temporary folder, removed at the end

In the first part, models with the poolings attention, mean and max are trained on 240 CTs (20 to 60 slices; half of the
CTs have a lesion, in 3 to 6 slices). In the second part, models with and without the days of the images are trained on
240 patients with three to six radiographs each; only the order of the radiographs shows whether a patient improves. The
models are tested on 120 studies made with another seed. The script prints the AUC of each model on the test studies,
the paired test of `cvrnet evaluate A B` (DeLong's, patients as clusters) against the first model of each part, and how
well attention finds the slices with the lesion.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from cvrnet.data.phantom_studies import write_studies
from cvrnet.runs.layout import METRICS
from cvrnet.runs.read import read_json
from cvrnet.training import recipe
from cvrnet.workflows import compare, train

TRAIN, TEST, SIZE = 240, 120, 96
PLAIN: dict[str, Any] = {"audit": False, "maps": False, "overwrite": True}
PARTS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "CTs": ("volumes", {name: {"pooling": name} for name in ("attention", "mean", "max")}),
    "follow-up": ("follow-up", {"time": {}, "no time": {"time": False}}),
}


def measure(root: Path, part: str) -> None:
    """Train the models of one part, compare them on the test studies, and print a row for each."""
    kind, models = PARTS[part]
    data, test = (
        write_studies(root / f"{part}-{name}", kind, n, seed=seed, size=SIZE, overwrite=True)
        for name, n, seed in (("train", TRAIN, 0), ("test", TEST, 1))
    )
    runs = {}
    for name, settings in models.items():
        config = recipe("studies", unit="study", model="cvrnet_lite", img_size=SIZE, **settings)
        runs[name] = root / f"{part}-{name.replace(' ', '-')}"
        train(data, runs[name], config, cache_folder=root / "cache", **PLAIN)
    found = compare([str(run) for run in runs.values()], test, root / f"{part}-compared", **PLAIN)
    first, *others = runs
    print(f"\n{part}: {found['paired'][0]['images']} test studies")
    for row in found["paired"]:
        if row["score"] == "auc_macro":
            test = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}), p = {row['p']:.1g}"
            print(f"{row['model']:<22} AUC {row['one']:.3f}, {row['reference']} {row['other']:.3f}: {test}")
    for name in (first, *others):
        metrics = read_json(root / f"{part}-compared" / runs[name].name / METRICS)["test"]
        print(f"{name:<10} accuracy {metrics['accuracy']:.3f}", *attention(metrics), flush=True)


def attention(metrics: dict[str, Any]) -> list[str]:
    """Return one text, in a list: how well attention finds the pictures with a lesion; no scores: an empty list."""
    scores = metrics["attention"]
    if not scores:
        return []
    shares = f"share of lesions {scores['share_of_lesions']:.2f} ({scores['pictures_with_lesion']:.2f} of the pictures)"
    return [f"AUC of attention {scores['roc_auc']:.3f}, top has lesion {scores['top_has_lesion']:.2f}, {shares}"]


def main() -> None:
    """Measure the CTs and the follow-up radiographs."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(sys.argv[1] if sys.argv[1:] else temporary)
        os.makedirs(root, exist_ok=True)
        for part in PARTS:
            measure(root, part)


if __name__ == "__main__":
    main()
