"""``cvrnet doctor``."""

import click

from cvrnet_cli import options
from cvrnet_cli.output import print_rows


@click.command(short_help="Describe this machine and installation, for a bug report.")
@options.style
def doctor(style: str) -> None:
    """Show versions, device, bf16 support, threads, installed extras and settings of the Hub, for a bug report.

    \b
    Examples:
      cvrnet doctor
    """
    from cvrnet.installation import describe_installation

    print_rows([{"item": item, "value": value} for item, value in describe_installation()], style=style)
