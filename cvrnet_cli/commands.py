"""Every command, in one group."""

from __future__ import annotations

import click

from cvrnet_cli.audit import audit
from cvrnet_cli.benchmark import benchmark
from cvrnet_cli.convert_keras import convert_keras
from cvrnet_cli.crossval import crossval
from cvrnet_cli.demo import demo
from cvrnet_cli.doctor import doctor
from cvrnet_cli.evaluate import evaluate
from cvrnet_cli.explain import explain
from cvrnet_cli.export import export
from cvrnet_cli.models import models
from cvrnet_cli.phantoms import phantoms
from cvrnet_cli.predict import predict
from cvrnet_cli.pull import pull
from cvrnet_cli.push import push
from cvrnet_cli.quickstart import quickstart
from cvrnet_cli.soup import soup
from cvrnet_cli.train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="cvrnet", prog_name="cvrnet")
def cli() -> None:
    """CVR-Net for timm: train, evaluate and use classifiers for chest radiographs.

    \b
    Try it:      cvrnet quickstart
    Your data:   cvrnet train DATA -o RUN      (a folder with one sub-folder a class, or a CSV manifest)
                 cvrnet predict RUN images/

    Research software, not a medical device.
    """


for command in (
    quickstart,
    doctor,
    models,
    phantoms,
    audit,
    train,
    crossval,
    benchmark,
    evaluate,
    predict,
    soup,
    explain,
    demo,
    convert_keras,
    export,
    push,
    pull,
):
    cli.add_command(command)
