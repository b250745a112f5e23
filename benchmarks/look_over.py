"""Measure how long `cvrnet data` takes on a manifest of many small PNG files.

    python benchmarks/look_over.py --images 100000

The script writes the files and prints seconds and processor seconds. All files are copies of one small image, because
`cvrnet data` decodes only the images of the contact sheet.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from cvrnet.data.contact_sheet import write_contact_sheet
from cvrnet.data.overview import look_over
from cvrnet.files import write_csv


def write_images(root: Path, number: int) -> Path:
    """Write copies of an image of noise (64 x 64 pixels) to 100 folders, and a manifest; return the manifest's path.

    The manifest has five classes, three sources and four images per patient.
    """
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(buffer, "PNG")
    rows = []
    for i in range(number):
        path = root / f"{i % 100:02d}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(buffer.getvalue())
        row = {"path": path.relative_to(root).as_posix(), "label": "ABCDE"[i % 5], "source": "xyz"[i % 3]}
        rows.append({**row, "patient_id": i // 4})
    write_csv(root / "manifest.csv", rows)
    return root / "manifest.csv"


def main() -> None:
    """Write the images, count them and draw a contact sheet as `cvrnet data` does, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_images(Path(folder), options.images)
        start, cpu = time.perf_counter(), time.process_time()
        found = look_over(manifest)
        write_contact_sheet(Path(folder) / "sheet.png", found)
        seconds, busy = time.perf_counter() - start, time.process_time() - cpu
    print(f"{len(found.records):,} images: {seconds:.1f} s, {busy:.1f} s of computing")


if __name__ == "__main__":
    main()
