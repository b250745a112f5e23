"""Draw a terminal with the output of `cvrnet audit` on phantoms (synthetic radiographs) that have a shortcut.

The script runs the command itself.

python scripts/draw_audit.py [FILE.png] [IMAGES]        default: docs/figures/audit.png 300
"""

from __future__ import annotations

import sys
import tempfile
import textwrap
from pathlib import Path

from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cvrnet.data import write_phantoms
from cvrnet.files import atomic_write
from cvrnet_cli.audit import audit

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "audit.png"
COMMAND = "cvrnet audit biased/manifest.csv"
SHOWN = "severe"
COLUMNS, SIZE = 62, 10  # characters per line, points: legible on a telephone's 390 pixels
TEXT, ACCENT = "#1a1a1a", "#a33e00"  # colour-blind readers and readers of grey prints can also tell them apart


def run_audit(number: int) -> list[str]:
    """Return the lines about severe problems that the command prints for phantoms with a shortcut."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_phantoms(Path(folder) / "biased", number, size=96, shortcut=True)
        done = CliRunner().invoke(audit, [str(manifest)])
    lines = [line for line in done.output.splitlines() if line.startswith(SHOWN)]
    if done.exit_code != 1 or not lines:  # 1 is the status of an audit with severe results
        raise SystemExit(f"{COMMAND} ended with status {done.exit_code}: {done.output}")
    return lines


def draw(lines: list[str]) -> Figure:
    """Return a figure of a terminal that shows the command and these lines of its output."""
    indent = " " * 9
    shown = [(f"$ {COMMAND} | grep {SHOWN}", "bold", TEXT)]
    for line in lines:
        first, *rest = textwrap.wrap(line, COLUMNS, subsequent_indent=indent, drop_whitespace=True)
        shown += [(text, "normal", TEXT) for text in (first, *rest)]
    step, width = SIZE * 1.5 / 72, (COLUMNS + 3) * SIZE * 0.602 / 72
    height = step * (len(shown) + 1.4)
    figure = Figure(figsize=(width, height), facecolor="#f7f7f7", edgecolor=TEXT, linewidth=1.5)
    FigureCanvasAgg(figure)
    for i, (text, weight, colour) in enumerate(shown):
        place = (1.5 / (COLUMNS + 3), 1 - step * (i + 1.2) / height)
        style = {"family": "DejaVu Sans Mono", "size": SIZE, "va": "center", "parse_math": False}
        figure.text(*place, text, color=colour, weight=weight, **style)
        if text.startswith(SHOWN):
            figure.text(*place, SHOWN, color=ACCENT, weight="bold", **style)
    return figure


def main(target: str | Path = FIGURE, number: str | int = 300) -> None:
    """Write the picture. The metadata field `Description` of the PNG file contains the text in the picture."""
    lines = run_audit(int(number))
    metadata = {"Description": "\n".join(lines), "Software": None}
    with atomic_write(Path(target)) as temporary:
        draw(lines).savefig(temporary, format="png", dpi=160, metadata=metadata)


if __name__ == "__main__":
    main(*sys.argv[1:3])
