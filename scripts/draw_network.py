"""Draw the papers' network. Every name and size in the figure is read from the model.

python scripts/draw_network.py [FILE.png]        default: docs/figures/network.png
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from cvrnet.encoders.network_size import create_on_meta
from cvrnet.files import atomic_write

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "network.png"
ENCODERS, HEADS, MEAN, TEXT = ("#cfe5f3", "#fbd9c0"), "#fff3c4", "#d5efe4", "#1a1a1a"  # light Okabe-Ito, dark text
WIDTH, HEIGHT, SIZE = 5.0, 6.6, 10  # inches, points: legible on a phone of 390 pixels


def read_network(name: str) -> dict[str, Any]:
    """Return a network's image size, maps, heads and classes; the shapes come from a pass on the device ``meta``."""
    with torch.device("meta"):
        model: Any = create_on_meta(name).eval()
    image = model.default_cfg["input_size"]
    with torch.no_grad():
        maps = model.forward_maps(torch.empty(1, *image, device="meta"))
    shapes = [tuple(m.shape[1:]) for m in maps]
    rows = {row["module"]: row for row in model.feature_info}  # compared below with the shapes
    heads = []
    for i, group in enumerate(model.groups):
        channels = sum(shapes[m][0] for m in group)
        row = rows[f"head.blocks.{i}"]
        if (row["num_chs"], row["reduction"]) != (channels, image[1] // shapes[group[0]][1]):
            raise SystemExit(f"{name}: feature_info has {row}, but the maps are {[shapes[m] for m in group]}")
        heads.append({"name": f"P{i + 1}", "maps": list(group), "channels": channels})
    block = model.head.blocks[0]
    return {
        "model": name,
        "image": list(image),
        "encoders": list(model.encoder_names),
        "maps": [{"name": n, "shape": list(s)} for n, s in zip(model.map_names, shapes, strict=True)],
        "heads": heads,
        "dense": [layer.out_features for layer in block.hidden if hasattr(layer, "out_features")],
        "classes": model.num_classes,
    }


def draw(network: dict[str, Any]) -> Figure:
    """Draw a network with two encoders of three maps each."""
    if len(network["encoders"]) != 2 or len(network["maps"]) != 6:
        raise SystemExit(f"{network['model']}: encoders {network['encoders']}; expected two encoders of three maps")
    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, HEIGHT)
    axes.set_axis_off()

    def box(x: float, y: float, width: float, height: float, text: str, colour: str, bold: bool = False) -> None:
        shape = FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06", facecolor=colour, edgecolor=TEXT, lw=0.8
        )
        axes.add_patch(shape)
        weight = "bold" if bold else "normal"
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", size=SIZE, color=TEXT, weight=weight)

    def arrow(*points: tuple[float, float]) -> None:
        for (x, y), (to_x, to_y) in itertools.pairwise(points[:-1]):
            axes.plot((x, to_x), (y, to_y), color=TEXT, lw=1.1, solid_capstyle="round")
        axes.add_patch(
            FancyArrowPatch(points[-2], points[-1], arrowstyle="-|>", mutation_scale=10, color=TEXT, lw=1.1, shrinkA=0)
        )

    middle, wide, high = WIDTH / 2, 1.4, 0.52
    left = (1.04, WIDTH - 1.04 - wide)
    rows = (4.32, 3.52, 2.72)
    box(middle - 0.9, 6.0, 1.8, 0.42, "image " + " × ".join(map(str, network["image"])), "white")
    for e, name in enumerate(network["encoders"]):
        centre = left[e] + wide / 2
        arrow((middle, 6.0), (middle, 5.8), (centre, 5.8), (centre, 5.62))
        box(left[e] - 0.03, 5.18, wide + 0.06, 0.44, name, ENCODERS[e], bold=True)
        arrow((centre, 5.18), (centre, rows[0] + high))
        for m, y in enumerate(rows):
            entry = network["maps"][3 * e + m]
            module, (channels, h, w) = entry["name"].removeprefix(f"{name}."), entry["shape"]
            box(left[e], y, wide, high, f"{module}\n{channels} × {h} × {w}", ENCODERS[e])
            if m:
                arrow((centre, rows[m - 1]), (centre, y + high))

    tall, small = 0.52, 0.54
    for head in network["heads"]:
        if len(head["maps"]) > 1:
            for e in (0, 1):
                centre, to = left[e] + wide / 2, middle + (e - 0.5) * 0.3
                arrow((centre, rows[2]), (centre, 2.4), (to, 2.4), (to, 1.68 + tall))
            box(middle - 0.85, 1.68, 1.7, tall, f"{head['name']}: {head['channels']}\n(concatenated)", HEADS)
            arrow((middle, 1.68), (middle, 0.98))
            continue
        (m,) = head["maps"]
        e, row = divmod(m, 3)
        start = (0.06, 0.26)[row]  # staggered, so that the arrows to the mean do not overlap
        x, down = start, 0.06 + 0.09 if row == 0 else start + small / 2
        inner, outer = left[e], start + small
        if e == 1:
            x, down, inner, outer = WIDTH - start - small, WIDTH - down, left[e] + wide, WIDTH - outer
        arrow((inner, rows[row] + high / 2), (outer, rows[row] + high / 2))
        box(x, rows[row], small, tall, f"{head['name']}\n{head['channels']}", HEADS)
        arrow((down, rows[row]), (down, 0.98))
    names = f"{network['heads'][0]['name']} to {network['heads'][-1]['name']}"
    dense = ", ".join(map(str, network["dense"]))
    box(
        0.08,
        0.1,
        WIDTH - 0.16,
        0.88,
        f"mean of the {len(network['heads'])} softmax outputs ({network['classes']} classes)\n"
        f"{names}: global average pooling,\ndense {dense} with ReLU, dense {network['classes']}, softmax",
        MEAN,
    )
    return figure


def main(target: str | Path = FIGURE) -> None:
    """Write the figure. The metadata field `Description` of the PNG file describes the network, for the tests."""
    network = read_network("cvrnet")
    with atomic_write(Path(target)) as temporary:
        draw(network).savefig(
            temporary, format="png", dpi=200, metadata={"Description": json.dumps(network), "Software": None}
        )


if __name__ == "__main__":
    main(*sys.argv[1:2])
