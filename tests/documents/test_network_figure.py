"""The figure of the network says what the network is."""

import json

import pytest
from PIL import Image

import cvrnet
from cvrnet import model_info
from tests.support import programs

FIGURE = programs.FIGURES / "network.png"


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("matplotlib")
    return programs.load("draw_network")


def description(path):
    return json.loads(programs.description(path))


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_committed_figure_is_of_the_network_as_it_is(script):
    assert description(FIGURE) == script["read_network"]("cvrnet")
    assert FIGURE.stat().st_size < 250_000


def test_the_script_writes_it(script, tmp_path):
    script["main"](tmp_path / "network.png")
    assert description(tmp_path / "network.png") == description(FIGURE)
    with Image.open(tmp_path / "network.png") as again, Image.open(FIGURE) as committed:
        assert again.size == committed.size


def test_it_shows_the_shapes_of_the_papers(script):
    shown = texts(script["draw"](script["read_network"]("cvrnet")))
    for map_ in ("layer2\n512 × 28 × 28", "block3.rep.5\n728 × 28 × 28", "act4\n2048 × 7 × 7"):
        assert map_ in shown
    assert {"P1\n512", "P2\n1024", "P4\n728", "P5\n1024", "P3: 4096\n(concatenated)"} <= set(shown)


@pytest.mark.parametrize("name", cvrnet.list_models())
def test_every_figure_agrees_with_the_description_of_its_model(script, name):
    shown, info = texts(script["draw"](script["read_network"](name))), model_info.describe_model(name)
    for head in info.heads:
        assert any(text.startswith(head.name) and str(head.channels) in text for text in shown)
        assert any(text.endswith(f"{head.grid[0]} × {head.grid[1]}") for text in shown)


def test_another_network_is_not_drawn_wrong(script):
    one = script["read_network"]("cvrnet_tiny") | {"encoders": ["test_resnet"]}
    with pytest.raises(SystemExit, match="expected two encoders of three maps"):
        script["draw"](one)
