"""Write docs/models/: one page per registered model, with numbers measured on the model (cvrnet.model_info).

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
    "cvrnet": "Comparison with the papers: their encoders, maps and protocol. The default of all commands.",
    "cvrnet_small": "Few images, a laptop, or many cross-validations.",
    "cvrnet_tiny": "Tests, tutorials and trials on CPUs, from random weights, at 64 to 128 pixels. Not for results.",
    "cvrnet_densenet121_efficientnet_b0": "Chest radiographs with a quarter of the papers' parameters.",
    "cvrnet_convnext_tiny_efficientnetv2_rw_s": "A comparison with encoders of 2021 and 2022, at the papers' size.",
    "cvrnet_keras": "The authors' own Keras checkpoints, which only this model can load.",
}

START = {
    "cvrnet_tiny": "cvrnet train manifest.csv -o run --model cvrnet_tiny --img-size 96 --lr 1e-3 --no-pretrained",
    "cvrnet_keras": "cvrnet train manifest.csv -o run --model cvrnet_keras --no-pretrained",
}

COMMON = """\
## Limits

This is research software. It is not a medical device and must not be used for diagnosis. The quality of a trained
model depends on its data: see [Sources](../concepts/sources.md), and the card that `cvrnet push` writes for each
run. [Results](../results.md) has measurements with small images and random initial weights.

The code is under the Apache License 2.0. Papers: arXiv 2007.11993 and medRxiv 2020.11.07.20227504.

*[scripts/write_model_pages.py](../../scripts/write_model_pages.py) writes this page.*
"""


def table(rows: list[tuple[Any, ...]], header: tuple[str, ...], align: str = "") -> str:
    """Return a Markdown table; ``align`` has one letter per column, r for numbers."""
    rule = [" ---: " if side == "r" else " --- " for side in align.ljust(len(header), "l")]
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def weights(info: ModelInfo) -> str:
    """Describe where a model's initial weights come from."""
    if info.name == "cvrnet_keras":
        return (
            "cvrnet publishes no weights, and this graph has no ImageNet weights: `pretrained=True` is an error.\n"
            "If you have one of the authors' checkpoints, you can [convert it](../keras.md)."
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
    """Return the text of one model's page."""
    cfg: Any = timm.get_pretrained_cfg(info.name)
    channels, height, width = info.input_size
    figures = [
        ("encoders", " and ".join(f"`{name}`" for name in info.encoders)),
        ("parameters", f"{info.parameters:,} (three classes)"),
        ("running statistics", f"{info.statistics:,}"),
        ("multiply-adds", f"{info.macs / 1e9:.2f} GMACs per image"),
        ("image", f"{channels} x {height} x {width}; other sizes with `img_size`, grey images with `in_chans=1`"),
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

Inputs of the heads:

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
    """Return the text of the page that lists all models."""
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

The numbers are for three classes and {size[1]} x {size[2]} pixels. You can also [combine any other timm
models](../howto/choose-an-encoder-pair.md). There are no pretrained weights of a whole network; `pretrained=True`
loads ImageNet weights into the encoders.
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
