"""``cvrnet models``."""

from __future__ import annotations

import click

from cvrnet_cli import options


@click.command(short_help="The registered models, or one of them in detail.")
@click.argument("name", required=False)
@options.style
def models(name: str | None, style: str | None) -> None:
    """List the models: encoders, parameters, multiply-adds at 224 x 224 pixels, feature maps.

    \b
    Examples:
      cvrnet models
      cvrnet models cvrnet
    """
    raise NotImplementedError
