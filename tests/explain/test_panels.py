"""The figure of an explained image: its text can be read, for any shape of image and any name."""

from pathlib import Path

import numpy as np
import pytest

from cvrnet.explain.explaining import Explanation
from cvrnet.explain.pictures import plot_explanation
from tests.support.figures import real_figures
from tests.support.readable import assert_readable

LONG = "convnext_tiny.in12k_ft_in1k", "tf_efficientnetv2_s.in21k_ft_in1k"
NAME = "exported-radiograph-of-the-hospital-$in$_" * 6 + ".png"
PARTS = {"one": ["network"], "encoders": ["network", *LONG], "all": ["network", *LONG, "P1", "P2", "P3", "P4", "P5"]}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("shape", [(64, 64), (96, 40), (30, 90), (200, 20), (20, 200)])
@real_figures()
def test_panels_can_be_read(parts, shape):
    maps = {part: np.linspace(0, 1, 49, dtype=np.float32).reshape(7, 7) for part in parts[:-1]}
    why = {parts[-1]: "the map is zero everywhere: no place speaks for this class"}
    image = np.full(shape, 128, np.uint8)
    explanation = Explanation(Path(NAME), "NCP", "COVID-19 pneumonia", 0.75, image, grids=maps, refused=why)
    figure = plot_explanation(explanation, parts)
    assert_readable(figure)
