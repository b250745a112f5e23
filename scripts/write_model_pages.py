"""Writes docs/models/: a page for each registered model, every figure measured on the model (cvrnet.model_info).

python scripts/write_model_pages.py [FOLDER]        default: docs/models
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import timm

from cvrnet import list_models
from cvrnet.encoders import hub_repository
from cvrnet.files import atomic_write
from cvrnet.model_info import ModelInfo, describe_model

FOLDER = Path(__file__).parents[1] / "docs" / "models"

USES = {
    "cvrnet": "Comparison with the papers: their encoders, maps and protocol. The default of every command.",
    "cvrnet_small": "Few images, a laptop, many cross-validations.",
    "cvrnet_tiny": "Tests, tutorials and trials on CPUs, from random weights and at 64 to 128 pixels. Not for results.",
    "cvrnet_densenet121_efficientnet_b0": "Chest radiographs with a quarter of the papers' parameters.",
    "cvrnet_convnext_tiny_efficientnetv2_rw_s": "A comparison with encoders of 2021 and 2022, at the papers' size.",
    "cvrnet_keras": "The authors' own Keras checkpoints, which no other of these models reads rightly.",
}

START = {
    "cvrnet_tiny": "cvrnet train manifest.csv -o run --model cvrnet_tiny --img-size 96 --lr 1e-3 --no-pretrained",
    "cvrnet_keras": "cvrnet train manifest.csv -o run --model cvrnet_keras --no-pretrained",
}

COMMON = """\
## Limits

Research software, not a medical device; it must not be used for diagnosis. What a trained model is worth
depends on its data: see [Sources](../concepts/sources.md) and the card that `cvrnet push` writes for each trained
run. Measured results are in [Results](../results.md); they are of small images and random initial weights.

The code is under the Apache License 2.0. Papers: arXiv 2007.11993 and medRxiv 2020.11.07.20227504.

*This page is written by [scripts/write_model_pages.py](../../scripts/write_model_pages.py) from the program.*
"""


def table(rows: list[tuple[Any, ...]], header: tuple[str, ...], align: str = "") -> str:
    """A Markdown table; ``align`` has an r for each column of numbers."""
    rule = [" ---: " if side == "r" else " --- " for side in align.ljust(len(header), "l")]
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def weights(info: ModelInfo) -> str:
    """Where a model's initial weights come from."""
    if info.name == "cvrnet_keras":
        return (
            "No weights are published with cvrnet, and `pretrained=True` is refused: this graph has no ImageNet\n"
            "weights of its own. Who holds one of the authors' checkpoints converts it ([how](../keras.md))."
        )
    rows = []
    for name in info.encoders:
        repository, cfg = hub_repository(name), timm.get_pretrained_cfg(name)
        licence = (cfg.license if cfg else None) or "not stated by timm"
        rows.append((f"`{name}`", f"[{repository}](https://huggingface.co/{repository})", licence))
    return (
        "**There are no pretrained weights of the whole network.** `pretrained=True` (the default of\n"
        "`cvrnet train`) loads ImageNet weights into the encoders, from timm's repositories on the Hub;\n"
        "the heads start at random.\n\n" + table(rows, ("encoder", "weights", "licence of the weights"))
    )


def page(info: ModelInfo) -> str:
    """One model's page."""
    cfg: Any = timm.get_pretrained_cfg(info.name)
    channels, height, width = info.input_size
    figures = [
        ("encoders", " and ".join(f"`{name}`" for name in info.encoders)),
        ("parameters", f"{info.parameters:,} (three classes)"),
        ("running statistics", f"{info.statistics:,}"),
        ("multiply-adds", f"{info.macs / 1e9:.2f} GMACs an image"),
        ("image", f"{channels} x {height} x {width}; others by `img_size`, grey ones by `in_chans=1`"),
        ("mean", ", ".join(f"{value:.4g}" for value in cfg.mean)),
        ("std", ", ".join(f"{value:.4g}" for value in cfg.std)),
        ("resizing", f"{cfg.interpolation}, the whole image ({cfg.crop_mode})"),
    ]
    heads = [
        (h.name, " and ".join(f"`{m}`" for m in h.maps), h.channels, f"{h.grid[0]} x {h.grid[1]}", f"{h.parameters:,}")
        for h in info.heads
    ]
    return f"""\
# {info.name}

{re.sub(r":mod:|`(?=`)", "", info.description)}

{table(figures, ("", "measured on the model"))}

What each head sees:

{table(heads, ("head", "feature map", "channels", "grid", "parameters"), "llrrr")}

## Use

{USES[info.name]}

```python
import timm
import cvrnet

model = timm.create_model("{info.name}", num_classes=3)
```

```text
$ {START.get(info.name, f"cvrnet train manifest.csv -o run --model {info.name}")}
```

## Weights

{weights(info)}

{COMMON}"""


def index(infos: list[ModelInfo]) -> str:
    """The page of all models."""
    rows = [
        (
            f"[{i.name}]({i.name}.md)",
            " and ".join(f"`{name}`" for name in i.encoders),
            f"{i.parameters / 1e6:.2f}",
            f"{i.macs / 1e9:.2f}",
            USES[i.name],
        )
        for i in infos
    ]
    size = infos[0].input_size
    return f"""\
# The registered models

```bash
cvrnet models
```

{table(rows, ("model", "encoders", "parameters (M)", "GMACs", "for"), "llrrl")}

Three classes, {size[1]} x {size[2]} pixels. Any other pair of timm's models works by name
([how](../howto/choose-an-encoder-pair.md)). No pretrained weights of a whole network are published;
`pretrained=True` means ImageNet weights in the encoders.
"""


def main(folder: str | Path = FOLDER) -> None:
    """Write all pages."""
    infos = [describe_model(name) for name in list_models()]
    texts = {"index": index(infos), **{info.name: page(info) for info in infos}}
    for name, text in texts.items():
        with atomic_write(Path(folder) / f"{name}.md") as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:2])
