"""``cvrnet import``."""

from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.manifest_options import column_names
from cvrnet_cli.output import print_rows, say

NAMES = (
    *("nih", "chexpert", "mimic-cxr-jpg", "padchest", "rsna", "vindr", "covidx", "covid-radiography", "kermany"),
    *("cohen", "generic", "paultimothymooney"),
)
"""The names and aliases of the data sets in `cvrnet.datasets`. They are repeated here, because importing that package
would import torch; a test checks that they are equal."""


@click.command("import", short_help="Write the manifest of a public data set from its folder.")
@click.argument("name", type=click.Choice(NAMES), metavar="NAME")
@click.argument("folder", type=options.PATH, metavar="DIR")
@options.output("The manifest to write.", required=True, metavar="MANIFEST.csv")
@click.option("--partial", is_flag=True, help="Continue even if some files named in the data set's tables are missing.")
@click.option(
    "--columns",
    type=column_names,
    metavar="NAME=COLUMN,...",
    help='For generic: columns of the CSV file, such as path="Image Index",label="Finding Labels".',
)
@options.style
@options.overwrite
def import_(name: str, folder: Path, output: Path, style: str, **settings: Any) -> None:
    """Write a manifest for the public data set NAME. DIR is its folder, as its authors distribute it.

    NAME is nih, chexpert, mimic-cxr-jpg, padchest, rsna, vindr, covidx, covid-radiography, kermany (also called
    paultimothymooney), cohen or generic (one sub-folder for each class, or one CSV file). Nothing is downloaded, copied
    or changed. The manifest has the labels or findings and, if the data set has them, official split, patient, view,
    sex, age, day of the image and lesion boxes. The command prints a table that compares the numbers of images found
    with the numbers that the authors published.

    \b
    Examples:
      cvrnet import nih ChestX-ray14/ -o ChestX-ray14/manifest.csv
      cvrnet import chexpert CheXpert-v1.0-small/ -o chexpert.csv
      cvrnet data chexpert.csv
    """
    from cvrnet.datasets import import_data_set
    from cvrnet.formatting import count

    result = import_data_set(name, folder, output, **settings)
    keys = dict.fromkeys([*result.counts, *result.published])
    print_rows(
        [{"what": key, "found": result.counts.get(key, 0), "published": result.published.get(key)} for key in keys],
        ["what", "found", "published"],
        style,
    )
    for reason, number in result.left_out.items():
        say(f"left out: {count(number, 'image')}: {reason}")
    for note in result.notes:
        say(note)
    place = f" --images {result.images}" if result.images else ""
    say(f"\nThe manifest is {output}.\nNext:\n  cvrnet data {output}{place}")
