"""``cvrnet models``."""

from __future__ import annotations

import sys

import click

from cvrnet_cli import options
from cvrnet_cli.output import say, write_rows


@click.command(short_help="The registered models, or one of them in detail.")
@click.argument("name", required=False)
@options.style
def models(name: str | None, style: str | None) -> None:
    """List the registered models: encoders, parameters, multiply-adds at 224 x 224 pixels, feature maps.

    \b
    Examples:
      cvrnet models
      cvrnet models cvrnet
    """
    from cvrnet import list_models
    from cvrnet.model_info import describe_model

    if name is None:
        rows = [
            {
                "model": info.name,
                "encoders": " + ".join(info.encoders),
                "parameters_M": round(info.parameters / 1e6, 2),
                "GMACs": round(info.macs / 1e9, 2),
                "maps": " ".join(f"{head.channels}@{head.grid[0]}x{head.grid[1]}" for head in info.heads),
            }
            for info in map(describe_model, list_models())
        ]
    else:
        info = describe_model(name)
        rows = [
            {
                "head": head.name,
                "feature_map": " ++ ".join(head.maps),
                "channels": head.channels,
                "grid": f"{head.grid[0]}x{head.grid[1]}",
                "parameters": head.parameters,
            }
            for head in info.heads
        ]
    write_rows(rows, list(rows[0]), style or "table", sys.stdout)
    if name is not None:
        say(
            f"\n{info.name}: {info.description}\n"
            f"{info.parameters:,} trainable parameters (3 classes), {info.statistics:,} running statistics, "
            f"{info.macs / 1e9:.2f} GMACs at {info.input_size[1]} x {info.input_size[2]}"
        )
