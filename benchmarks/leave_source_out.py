"""Train cvrnet_lite's heads without each source in turn, and compare methods that may depend less on the source.

python benchmarks/leave_source_out.py MANIFEST

Each score is measured on the source that was left out, and is the mean over three splits. The methods are: the average
of the heads; each head alone; the average if every group of label and source counts equally in the loss; P3 trained
alone; and two weighted averages of the heads. The "chosen weights" have the lowest log loss on the other sources. Each
of these is predicted by heads that were trained without it and without the scored source, so the weights do not depend
on the scored source. The "best weights" are chosen on the scored source itself, as an upper bound.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold

from cvrnet.data import ImageCache, class_names, read_records
from cvrnet.data.splits import patient_keys
from cvrnet.heads import MultiScaleAveragingHead
from cvrnet.inference.frozen_features import FrozenFeatures, head_inputs
from cvrnet.scoring import MIN_PATIENTS
from cvrnet.training import create_for_training, recipe, resolve_interpolation
from cvrnet.training.objective import class_weights
from cvrnet.training.optimizers import create_optimizer

CONFIG = resolve_interpolation(recipe("frozen", model="cvrnet_lite"))
SEEDS = range(3)
Floats = NDArray[np.float64]


class Study:
    """Computes the heads' inputs for all images of a manifest once, and trains heads without some of the sources."""

    def __init__(self, manifest: str) -> None:
        records = read_records(manifest)
        self.classes = class_names(records)
        self.y = np.array([self.classes.index(r.label) for r in records])
        self.source, self.patients = np.array([r.source for r in records]), np.array(patient_keys(records))
        self.groups = np.unique([f"{r.label}\t{r.source}" for r in records], return_inverse=True)[1]
        self.sources = sorted({*self.source.tolist()})
        torch.manual_seed(CONFIG.seed)
        model = create_for_training(CONFIG, len(self.classes))
        cache = ImageCache((CONFIG.img_size, CONFIG.img_size), mode="RGB", interpolation=CONFIG.interpolation)
        cache.build(records)
        features = FrozenFeatures(model, cache)
        features.load(records)
        vectors = torch.from_numpy(features.vectors[features.rows(records), 0])
        self.inputs = [x.clone() for x in head_inputs(model, vectors)]

    def scored(self, source: str) -> list[NDArray[np.intp]]:
        """Return the indices of the images of each class that has enough patients in the source."""
        of_class = [np.flatnonzero((self.source == source) & (self.y == k)) for k in range(len(self.classes))]
        return [rows for rows in of_class if len({*self.patients[rows]}) >= MIN_PATIENTS]

    @functools.cache  # noqa: B019  # there is one study
    def train(
        self, without: frozenset[str], seed: int, heads: Sequence[int] = range(5), by_group: bool = False
    ) -> Floats:
        """Train without these sources; return each head's probabilities for all images, (heads, N, C)."""
        rows = np.flatnonzero(~np.isin(self.source, [*without]))
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        train, val = (rows[part] for part in next(folds.split(rows, self.groups[rows], self.patients[rows])))
        torch.manual_seed(seed)
        x = [(v - v[train].mean(0)) / v[train].std(0).clamp(min=1e-6) for v in (self.inputs[h] for h in heads)]
        y = torch.from_numpy(self.y)
        if by_group:
            counts = np.bincount(self.groups[train], minlength=self.groups.max() + 1)
            weights = torch.from_numpy(len(train) / np.maximum(counts, 1) / (counts > 0).sum()).float()[self.groups]
        else:
            weights = class_weights(self.y[train].tolist(), len(self.classes))[y]
        head = MultiScaleAveragingHead([v.shape[1] for v in x], len(self.classes), drop_rate=CONFIG.drop_rate)
        optimizer = create_optimizer(head, CONFIG.optimizer, CONFIG.lr, CONFIG.weight_decay)
        best, answer = np.inf, np.empty(0)
        for _ in range(CONFIG.epochs):
            for batch in torch.from_numpy(train)[torch.randperm(len(train))].split(CONFIG.batch_size):
                losses = F.cross_entropy(head.train()([v[batch] for v in x]), y[batch], reduction="none")
                optimizer.zero_grad()
                (losses * weights[batch]).mean().backward()
                optimizer.step()
            with torch.no_grad():
                logits = torch.stack(head.eval().branch_logits(x)).double()
                loss = F.nll_loss(logits.softmax(-1).mean(0).log()[val], y[val]).item()
            if loss < best:
                best, answer = loss, logits.softmax(-1).numpy()
        return answer

    def balanced_accuracy(self, probabilities: Floats, source: str) -> float:
        """Return the mean sensitivity of the scored classes of a source, from probabilities (N, C) of all images."""
        right = probabilities.argmax(-1) == self.y
        return float(np.mean([right[rows].mean() for rows in self.scored(source)]))

    def log_loss(self, by_head: Floats, source: str) -> Callable[[Floats], float]:
        """Return a function from the heads' weights to the log loss on a source, in which all classes count equally."""
        own = [by_head[:, rows, self.y[rows]] for rows in self.scored(source)]
        return lambda weights: -float(np.mean([np.log(weights @ p + 1e-12).mean() for p in own]))

    def chosen_weights(self, source: str, seed: int) -> Floats:
        """Return the heads' weights with the lowest log loss on the other sources (see the module docstring)."""
        losses = []
        for other in self.sources:
            without = frozenset({source, other})
            left = {*self.y[~np.isin(self.source, [*without])].tolist()}
            inside = [np.isin(self.source, [*without], invert=True) & (self.y == k) for k in left]
            trainable = len(left) == len(self.classes) and all(len({*self.patients[i]}) >= MIN_PATIENTS for i in inside)
            if other != source and trainable and self.scored(other):
                losses.append(self.log_loss(self.train(without, seed), other))
        return best_weights(losses)


def best_weights(losses: Sequence[Callable[[Floats], float]], heads: int = 5) -> Floats:
    """Return the weights (sum 1) with the lowest sum of losses and a small penalty; equal weights without losses."""
    found = minimize(lambda z: sum(loss(softmax(z)) for loss in losses) + 1e-3 * (z**2).sum(), np.zeros(heads))
    return softmax(found.x)


def main() -> None:
    """Print the balanced accuracy of each method on each source."""
    study = Study(sys.argv[1])
    for source in study.sources:
        scores: dict[str, list[float]] = {}
        for seed in SEEDS:
            alone = frozenset({source})
            heads = study.train(alone, seed)
            ways = {
                "average": heads.mean(0),
                **{f"P{i}": head for i, head in enumerate(heads, start=1)},
                "groups count equally": study.train(alone, seed, by_group=True).mean(0),
                "P3 trained alone": study.train(alone, seed, heads=(2,)).mean(0),
                "chosen weights": np.tensordot(study.chosen_weights(source, seed), heads, 1),
                "best weights": np.tensordot(best_weights([study.log_loss(heads, source)]), heads, 1),
            }
            for name, probabilities in ways.items():
                scores.setdefault(name, []).append(study.balanced_accuracy(probabilities, source))
        classes = ", ".join(study.classes[study.y[rows[0]]] for rows in study.scored(source))
        print(f"{source} left out ({classes}): balanced accuracy, mean and each split")
        for name, values in scores.items():
            print(f"  {name:<22} {np.mean(values):.3f}   {' '.join(f'{value:.3f}' for value in values)}", flush=True)


if __name__ == "__main__":
    main()
