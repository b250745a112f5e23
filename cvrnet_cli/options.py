"""Options that several commands share, spelled the same everywhere."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from cvrnet_cli.output import FORMATS, say

Command = Callable[..., Any]

device = click.option("--device", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
amp = click.option(
    "--amp",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    help="Number format; auto takes what is fast on the device.  [default: auto]",
)
batch_size = click.option("--batch-size", type=click.IntRange(1), help="Images at once.  [default: 8]")


def _old_fold_numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> None:
    """``--folds 1,3``, as version 0.1 spelled ``--fold 1,3``."""
    if text:
        say("Warning: --folds is now --fold where folds of a run are chosen; --folds N makes N folds")
        context.meta["cvrnet.folds"] = text


def _fold_numbers(context: click.Context, parameter: click.Parameter, texts: Sequence[str]) -> list[int]:
    """``--fold 1,3``, or ``--fold 1 --fold 3``, as ``[1, 3]``."""
    names = [name for text in (*texts, context.meta.get("cvrnet.folds", "")) for name in split_names(text)]
    if wrong := [name for name in names if not name.isdigit()]:
        raise click.BadParameter(f"{wrong[0]!r} is no fold; expected numbers such as 1,3")
    return [int(name) for name in names]


def folds(command: Command) -> Command:
    """``--fold 1,3``: folds of a run that are chosen."""
    old = click.option(
        "--folds", "old_folds", callback=_old_fold_numbers, expose_value=False, is_eager=True, hidden=True
    )
    new = click.option(
        "--fold",
        "folds",
        multiple=True,
        callback=_fold_numbers,
        help="Only these folds of a run, such as 1,3.  [default: all]",
    )
    return new(old(command))


n_folds = click.option(
    "--folds", "n_folds", type=click.IntRange(3), default=5, show_default=True, help="Number of folds to make."
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace what is there.")
seed = click.option("--seed", type=click.IntRange(0), help="Of everything random.  [default: 0]")
style = click.option(
    "--format", "style", type=click.Choice(FORMATS), help="Of the output.  [default: table, or the file's suffix]"
)
classes = click.option("--classes", help="Class order, such as NOR,NCP,CVP.  [default: alphabetical]")

test_source = click.option(
    "--test-source", default="", help="Source that is kept for testing; no model trains or validates on it."
)
split_from = click.option("--split-from", type=click.Path(path_type=Path), help="A split.csv whose folds are taken.")


def reported(command: Command) -> Command:
    """What every report may show: the audit and the maps."""
    audit = click.option("--audit/--no-audit", default=True, help="Audit DATA first (see cvrnet audit).  [default: on]")
    maps = click.option("--maps/--no-maps", default=True, help="Grad-CAM of some images in the report.  [default: on]")
    return audit(maps(command))


def job(command: Command) -> Command:
    """What every job that trains takes beside its protocol."""
    command = overwrite(reported(command))
    command = click.option("--resume", is_flag=True, help="Continue the run in the folder.")(command)
    cache = click.option("--cache-dir", type=click.Path(path_type=Path), help="Where decoded images are kept.")
    return classes(cache(command))


def job_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Takes what ``job`` and ``test_source`` added out of a command's settings, as arguments of its workflow."""
    names = ("test_source", "audit", "maps", "resume", "overwrite")
    arguments = {name: settings.pop(name) for name in names if name in settings}
    classes = split_names(settings.pop("classes")) or None
    return {**arguments, "classes": classes, "cache_folder": settings.pop("cache_dir")}


_MODEL: list[tuple[str, Any, str]] = [
    ("--model", str, "timm classifier: one of `cvrnet models`, or any other"),
    ("--encoders", str, "Encoders of a CVR-Net, such as resnet18,densenet121"),
    ("--model-kwargs", str, "Further arguments of the model, such as scales=deepest,drop_path_rate=0.1"),
]
_PROTOCOL: list[tuple[str, Any, str]] = [
    ("--img-size", click.IntRange(32), "Height and width in pixels"),
    ("--in-chans", click.Choice(["1", "3"]), "1 for grey images, 3 for RGB"),
    ("--interpolation", str, "Of the resizing; the aspect ratio is not kept"),
    ("--batch-size", click.IntRange(1), "Images an optimiser step, over all processes together"),
    ("--grad-accum", click.IntRange(1), "Parts a batch is split into, to save memory"),
    ("--epochs", click.IntRange(1), "At most so many"),
    ("--optimizer", str, "By timm's name"),
    ("--lr", click.FloatRange(0, min_open=True), "Initial learning rate"),
    ("--lr-factor", float, "The rate is multiplied by this"),
    ("--lr-patience", click.IntRange(1), "after so many epochs without improvement"),
    ("--patience", click.IntRange(1), "Stop after so many epochs without improvement"),
    ("--monitor", click.Choice(["val_loss", "val_accuracy"]), "What improvement is judged by"),
    ("--rotation-p", click.FloatRange(0, 1), "Probability of a rotation"),
    ("--shift-p", click.FloatRange(0, 1), "Probability of a shift, of width and height each"),
    ("--hflip-p", click.FloatRange(0, 1), "Probability of a horizontal flip"),
    ("--vflip-p", click.FloatRange(0, 1), "Probability of a vertical flip"),
    ("--drop-rate", click.FloatRange(0, 1), "Dropout before the classifiers"),
    ("--val-fraction", click.FloatRange(0, 1, min_open=True, max_open=True), "Part of the patients that validates"),
    ("--seed", click.IntRange(0), "Of weights, order, augmentation and splits"),
    ("--amp", click.Choice(["auto", "fp32", "bf16", "fp16"]), "Number format"),
    ("--device", str, "auto, cpu, cuda, cuda:N or mps"),
    ("--num-workers", click.IntRange(0), "Processes that load images"),
]

TRAINING_DEFAULTS: dict[str, Any] = {
    "model": "cvrnet",
    "encoders": "",
    "model_kwargs": "",
    "img_size": 224,
    "in_chans": 3,
    "interpolation": "nearest",
    "batch_size": 8,
    "grad_accum": 1,
    "epochs": 200,
    "optimizer": "adam",
    "lr": 1e-4,
    "lr_factor": 0.9,
    "lr_patience": 12,
    "patience": 25,
    "monitor": "val_loss",
    "rotation_p": 0.45,
    "shift_p": 0.2,
    "hflip_p": 0.5,
    "vflip_p": 0.5,
    "drop_rate": 0.0,
    "val_fraction": 0.2,
    "seed": 0,
    "amp": "auto",
    "device": "auto",
    "num_workers": 0,
}
"""What the help shows; a test holds it to ``cvrnet.training.TrainConfig``, which importing would bring torch."""


def training(command: Command) -> Command:
    """Every setting of ``cvrnet.training.TrainConfig`` as an option; None where the user gave none."""
    return _add(_MODEL, protocol(command))


def protocol(command: Command) -> Command:
    """The settings of ``cvrnet.training.TrainConfig`` but the model's: what models that are compared have in common."""
    command = _add(_PROTOCOL, command)
    command = click.option(
        "--class-weights/--no-class-weights", default=None, help="Weigh the loss by N_max / N_j.  [default: on]"
    )(command)
    command = click.option(
        "--pretrained/--no-pretrained",
        default=None,
        help="Start from ImageNet weights, from the Hugging Face Hub.  [default: on]",
    )(command)
    return click.option(
        "--recipe",
        type=click.Choice(["paper", "notebook"]),
        default="paper",
        show_default=True,
        help="Protocol that the other options change: the papers', or that of the authors' notebook.",
    )(command)


def _add(settings: list[tuple[str, Any, str]], command: Command) -> Command:
    for flag, kind, text in reversed(settings):
        default = TRAINING_DEFAULTS[flag[2:].replace("-", "_")]
        shown = f"  [default: {default:g}]" if isinstance(default, float) else f"  [default: {default}]"
        command = click.option(flag, type=kind, help=text + "." + (shown if default != "" else ""))(command)
    return command


def training_config(recipe: str, settings: dict[str, Any]) -> Any:
    """The ``TrainConfig`` that the options mean."""
    from cvrnet.training import recipe as make

    given = {key: value for key, value in settings.items() if value is not None}
    if "in_chans" in given:
        given["in_chans"] = int(given["in_chans"])
    if "encoders" in given:
        given["encoders"] = tuple(split_names(given["encoders"]))
    if "model_kwargs" in given:
        given["model_kwargs"] = dict(map(_key_value, split_names(given["model_kwargs"])))
    return make(recipe, **given)


def _key_value(text: str) -> tuple[str, Any]:
    """``key=value``, the value as Python has it, or as text."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.UsageError(f"--model-kwargs: {text!r}; expected key=value")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def split_names(text: str | None) -> list[str]:
    """``"a, b"`` as ``["a", "b"]``."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def output_folder(required: bool, default: str | None = None, help_text: str = "Folder to write to.") -> Any:
    """``-o/--output`` for a folder."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=required,
        default=default,
        show_default=default is not None,
        help=help_text,
    )
