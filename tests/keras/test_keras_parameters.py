"""Parameter counts: the notebook's ``count_params()`` and the first paper's Table 2, from our network."""

from __future__ import annotations

import pytest
import timm

import cvrnet  # noqa: F401  # registers the models
from cvrnet.keras import keras_parameter_counts

COUNTS = {  # (classes, image channels): P1 to P5, total; from the notebook's count_params() and the first paper
    (2, 3): (1796802, 9188034, 46620906, 1371642, 15954794, 48602610),
    (3, 3): (1796867, 9188099, 46620971, 1371707, 15954859, 48602935),
    (3, 1): (1790595, 9181827, 46614123, 1371131, 15954283, 48596087),
}


@pytest.mark.parametrize(("classes", "channels"), COUNTS)
def test_parameter_counts(classes: int, channels: int) -> None:
    model = timm.create_model("cvrnet_keras", num_classes=classes, in_chans=channels, device="meta")
    assert tuple(keras_parameter_counts(model).values()) == COUNTS[classes, channels]


def test_parameter_counts_of_table_2() -> None:
    """The first paper's Table 2 mixes the RGB and the one-channel build."""
    rgb, grey = COUNTS[3, 3], COUNTS[3, 1]
    table = {"P1": 1796867, "P2": 9181827, "P3": 46620971, "P4": 1371131, "P5": 15954283, "total": 48596087}
    assert tuple(table.values()) == (rgb[0], grey[1], rgb[2], grey[3], grey[4], grey[5])
