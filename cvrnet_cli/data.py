"""``cvrnet data``."""

from pathlib import Path

import click

from cvrnet_cli import options
from cvrnet_cli.output import print_rows, progress_bar, say


@click.command(short_help="Show what a data set contains: counts, sizes, problems, and a contact sheet.")
@click.argument("data", type=options.PATH)
@options.manifest("data")
@options.output("PNG file for a contact sheet: some images of each label from each source.", metavar="SHEET.png")
@options.style
@options.overwrite
def data(data: Path, output: Path | None, style: str, overwrite: bool) -> int:
    """Count the images and patients of DATA by label, source, split, view, size and bit depth.

    DATA is a folder with one sub-folder for each class, or a CSV manifest. In a manifest, a label may name several
    findings (Edema|Effusion), or each finding may have a column. Files are opened but not decoded, so 100,000 images
    take less than a minute. Unreadable files, images that cannot be used and faulty labels are named on stderr, and the
    exit status is then 1. cvrnet audit finds further problems, which would make a trained model look better than it is.

    \b
    Examples:
      cvrnet data images/
      cvrnet data manifest.csv -o sheet.png
      cvrnet data Data_Entry_2017.csv --images images/ --columns 'path="Image Index",label="Finding Labels"'
    """
    from cvrnet.data.contact_sheet import write_contact_sheet
    from cvrnet.data.overview import look_over
    from cvrnet.data.scan import SHOWN_PROBLEMS
    from cvrnet.errors import UserError

    if output is not None and output.exists() and not overwrite:
        raise UserError(f"{output} exists; --overwrite replaces it")
    with progress_bar("Opening") as progress:
        found = look_over(data, say=say, progress=progress)
    print_rows(found.rows, ["what", "value", "images", "patients"], style)
    if output is not None:
        for note in write_contact_sheet(output, found):
            say(note)
        say(f"\nThe contact sheet is {output}")
    if found.problems:
        say(f"\n{len(found.problems):,} problems:")
        for problem in found.problems[:SHOWN_PROBLEMS]:
            say(f"  {problem}")
        if len(found.problems) > SHOWN_PROBLEMS:
            say(f"  and {len(found.problems) - SHOWN_PROBLEMS:,} more")
    return int(bool(found.problems))
