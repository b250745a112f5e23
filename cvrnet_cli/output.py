"""Write data to stdout or a file, in the format that the user chose; write progress and messages to stderr."""

import csv
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

FORMATS = ("table", "csv", "json", "jsonl")


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), style: str = "table") -> None:
    """Write rows to stdout; the default columns are the keys of the first row."""
    write_rows(rows, columns or (list(rows[0]) if rows else []), style, sys.stdout)
    sys.stdout.flush()  # before the messages on stderr that follow


def write_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], style: str, file: TextIO) -> None:
    """Write rows in one of `FORMATS`, one row at a time, so that memory does not grow with the number of rows.

    In tables and CSV, control characters are escaped. In CSV, ``'`` is put before a text that a spreadsheet would read
    as a formula. JSON keeps every text; NaN and infinity become null.
    """
    if style == "csv":
        from cvrnet.text import sheet_cell

        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(sheet_cell, columns))
        writer.writerows([sheet_cell(row[c]) for c in columns] for row in rows)
    elif style == "jsonl":
        for row in rows:
            file.write(_json(row, columns) + "\n")
    elif style == "json":
        file.write("[")
        for i, row in enumerate(rows):
            file.write(("," if i else "") + "\n  " + _json(row, columns))
        file.write("\n]\n")
    else:
        _write_table(rows, columns, file)


def _json(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return a row as strict JSON, in which NaN and infinity become null."""
    values = {c: None if isinstance(row[c], float) and not math.isfinite(row[c]) else row[c] for c in columns}
    return json.dumps(values, allow_nan=False)  # ASCII, which every terminal can show


def _write_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], file: TextIO) -> None:
    """Write a table whose columns fit the first 200 rows; a later row that needs more space gets a longer line."""
    table = ([_cell(row[c]) for c in columns] for row in rows)
    first = list(itertools.islice(table, 200))
    names = [safe(name) for name in columns]
    widths = [max(map(len, column)) for column in zip(names, *first, strict=True)]
    numeric = [bool(first) and all(_is_number(cells[i]) for cells in first) for i in range(len(columns))]
    for cells in itertools.chain([names], first, table):
        padded = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(cells, widths, numeric, strict=True))
        file.write("  ".join(padded).rstrip() + "\n")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else safe(str(value))


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).replace(",", "").isdigit() or text == "-"


@contextmanager
def output_file(path: Path | None, overwrite: bool) -> Iterator[TextIO]:
    """Yield stdout, or a file that is written atomically; an existing file is an error without ``overwrite``."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    from cvrnet.files import atomic_write

    if path.exists() and not overwrite:
        raise click.ClickException(f"{path} exists; --overwrite replaces it")
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def progress_bar(description: str, unit: str = "image") -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that shows a bar on stderr; it does nothing if stderr is not a terminal."""
    from tqdm import tqdm

    with tqdm(desc=safe(description), unit=unit, disable=None, leave=False) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


@contextmanager
def job_callbacks(config: Any = None) -> Iterator[Any]:
    """Yield the ``cvrnet.workflows.Callbacks`` of a job; all bars are closed at the end.

    The callbacks show a bar for each stage and epoch if stderr is a terminal. After each epoch they print one line, on
    a terminal or not. ``config`` is the ``TrainConfig`` of a job that trains.
    """
    from cvrnet.workflows import Callbacks

    with ExitStack() as stack:

        def stage(name: str) -> Callable[[int, int], None]:
            return stack.enter_context(progress_bar(name))

        def training(name: str, fold: int) -> Any:
            if fold:
                say(f"{name}, fold {fold}" if name else f"fold {fold}")
            return stack.enter_context(epoch_bars(config))

        yield Callbacks(say=say, stage=stage, training=training)


@contextmanager
def epoch_bars(config: Any) -> Iterator[Any]:
    """Yield the ``cvrnet.training.Progress`` of one training. It shows a bar during each epoch, then prints a line."""
    from tqdm import tqdm

    from cvrnet.training import Progress
    from cvrnet_cli.forecast import Forecast

    forecast = Forecast(config)
    bar = tqdm(unit="image", disable=None, leave=False)

    def start(epoch: int, images: int, history: list[dict[str, Any]]) -> None:
        forecast.start(epoch, images)
        bar.reset(total=images)
        left = (config.epochs - epoch + 1) * sum(r["seconds"] for r in history) / len(history) if history else None
        so_far = f", {config.monitor} {history[-1][config.monitor]:.4f}" if history else ""
        at_most = f", at most {tqdm.format_interval(left)} left" if left else ""
        bar.set_description(f"Epoch {epoch}/{config.epochs}{so_far}{at_most}")

    def step(images: int, loss: Any) -> None:
        forecast.step(images)
        if bar.update(images):  # true when tqdm redraws the bar; the loss stays on the device until then
            bar.set_postfix(loss=f"{loss():.4f}", refresh=False)

    def end(row: dict[str, Any]) -> None:
        bar.clear()
        forecast.end(row["seconds"])
        score = "val_roc_auc" if "val_roc_auc" in row else "val_accuracy"  # models of findings have no accuracy
        say(
            f"epoch {row['epoch']:3d}/{config.epochs}  train_loss {row['train_loss']:.4f}  "
            f"val_loss {row['val_loss']:.4f}  {score} {row[score]:.4f}  lr {row['lr']:.1e}  "
            f"{row['seconds']:.0f} s" + ("  best" if row["best"] else "")
        )

    try:
        yield Progress(start=start, step=step, end=end)
    finally:
        bar.close()


SCORES = ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "auc_macro")


def print_scores(metrics: Mapping[str, Any], columns: Sequence[str] = SCORES) -> None:
    """Print the scores in metrics.json: a row for each set of images or, for findings, for each finding in each set."""
    from cvrnet.report.report_tables import paper_scores

    if any("findings" in scores for scores in metrics.values()):
        _print_findings(metrics)
        return
    rows = [
        {**scores, **scores["weighted"], **paper_scores(scores), "set": name, "images": scores["n"]}
        for name, scores in metrics.items()
    ]
    print_rows(rows, ("set", "images", *columns))


def _print_findings(metrics: Mapping[str, Any]) -> None:
    from cvrnet.report.findings import finding_rows

    columns = ("set", "finding", "positives", "roc_auc", "roc_auc_low", "roc_auc_high", "average_precision")
    rows = [row for name, scores in metrics.items() for row in finding_rows(name, scores) if not row["source"]]
    print_rows([{"positives": None, **row} for row in rows], columns)


def say(message: str = "") -> None:
    """Write a message for the user to stderr."""
    tell(message, err=True)


def tell(message: str, err: bool = False) -> None:
    """Write lines to stdout or stderr. Control characters, which a terminal would execute, become escapes."""
    click.echo("\n".join(map(safe, message.split("\n"))), err=err)


def safe(line: str) -> str:
    """Return `cvrnet.text.printable` of a line, but import that module only if the line needs it."""
    if line.isprintable():
        return line
    from cvrnet.text import printable

    return printable(line)
