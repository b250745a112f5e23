"""Predict bags (studies or patients) with the heads of a model, from the stored feature vectors of their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvrnet.data.studies import Study, pictures_of
from cvrnet.heads import Bags, to_probabilities
from cvrnet.inference.frozen_features import FrozenFeatures, head_inputs
from cvrnet.network import CVRNet

CHUNK = 1200  # largest number of pictures whose vectors are in memory at once; a bag with more is a chunk by itself


class BagAnswers(NamedTuple):
    """The predictions of one model for N bags."""

    by_head: NDArray[np.float64]  #: each head's probabilities, (heads, N, classes)
    #: For each bag, each picture's share in each head's prediction, (heads, pictures).
    shares: list[NDArray[np.float64]]


def answer_bags(model: CVRNet, bags: Bags) -> BagAnswers:
    """Predict bags (studies or patients) with a model, on the device of the model's head.

    ``bags.vectors``, (P, width), has a vector for each of the P pictures: all encoders' pooled maps, concatenated.
    If the model averages logits, its heads count as a single head, as in `cvrnet.inference.Predictor`.
    """
    head: Any = model.head.eval()
    with torch.inference_mode():
        moved = bags.to(next(head.parameters()).device)
        logits, shares = head.bag_logits(head_inputs(model, moved.vectors), moved.sizes, moved.days)
        by_head = logits if head.average == "probabilities" else [head.combine(logits)]
        probabilities = to_probabilities(torch.stack(by_head).cpu().double(), model.task).numpy()
    split = shares.cpu().double().split(bags.sizes.tolist(), 1)
    return BagAnswers(probabilities, [part.numpy() for part in split])


def answer_frozen(model: CVRNet, features: FrozenFeatures, studies: Sequence[Study]) -> BagAnswers:
    """Predict studies with a model, from the stored vectors of their pictures."""
    found = [answer_bags(model, frozen_bags(features, part)) for part in _chunks(studies)]
    by_head = np.concatenate([answers.by_head for answers in found], axis=1)
    return BagAnswers(by_head, [share for answers in found for share in answers.shares])


def frozen_bags(features: FrozenFeatures, studies: Sequence[Study]) -> Bags:
    """Return studies as bags, with the stored vectors of their pictures without augmentation."""
    rows = features.rows(pictures_of(studies))
    return make_bags(
        features.vectors[rows, 0],  # the first version of each picture is not augmented
        [len(s.pictures) for s in studies],
        [d for s in studies for d in s.days],
    )


def make_bags(vectors: NDArray[np.float32], sizes: Sequence[int], days: Sequence[float]) -> Bags:
    """Make N bags, which together have P pictures.

    ``vectors`` (P, width) and ``days`` (P,) have an entry for each picture, one bag after the other. ``sizes`` (N,) has
    the number of pictures of each bag.
    """
    return Bags(torch.from_numpy(vectors), torch.tensor(sizes), torch.tensor(days, dtype=torch.float32))


def _chunks(studies: Sequence[Study]) -> Iterator[list[Study]]:
    chunk: list[Study] = []
    for study in studies:
        if chunk and sum(len(s.pictures) for s in chunk) + len(study.pictures) > CHUNK:
            yield chunk
            chunk = []
        chunk.append(study)
    if chunk:
        yield chunk


def join_bags(items: Sequence[tuple[Tensor, Tensor]]) -> Bags:
    """Join bags into one batch; each item has the vectors (pictures, width) and days (pictures,) of one bag."""
    vectors, days = zip(*items, strict=True)
    return Bags(torch.cat(vectors), torch.tensor([len(v) for v in vectors]), torch.cat(days))
