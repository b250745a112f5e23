"""The group of all commands. Each command is in the module with the same name."""

from importlib import import_module

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True})
@click.version_option(package_name="cvrnet", prog_name="cvrnet")
def cli() -> None:
    """CVR-Net for timm: train, evaluate and use classifiers for chest radiographs.

    \b
    Try it:      cvrnet quickstart
    Your data:   cvrnet train DATA -o RUN      (a folder with one sub-folder for each class, or a CSV manifest)
                 cvrnet predict RUN images/

    Research software, not a medical device.
    """


_COMMANDS = (
    "quickstart doctor models phantoms import_ data lungs audit train crossval benchmark evaluate calibrate tune "
    "predict soup explain demo convert_keras export push pull"
)
for _name in _COMMANDS.split():
    cli.add_command(getattr(import_module(f"cvrnet_cli.{_name}"), _name))
