"""The options that several commands share. An option has the same spelling in every command."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from cvrnet_cli.manifest_options import manifest as manifest
from cvrnet_cli.option_values import class_names as class_names
from cvrnet_cli.option_values import freezing as freezing
from cvrnet_cli.option_values import key_values as key_values
from cvrnet_cli.option_values import names as names
from cvrnet_cli.option_values import targets as targets
from cvrnet_cli.output import FORMATS, say

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

PATH = click.Path(path_type=Path)


class OutputPath(click.Path):
    """A path to write to. ``-`` is an error; with ``allow_dash``, ``-`` means stdout, and the value is None."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path that the user gave; None for stdout."""
        if value == "-" and self.allow_dash:
            return None
        if value in ("", "-"):
            self.fail(f"{value!r}; expected the name of a file or folder (./- if its name is -)", param, ctx)
        return super().convert(value, param, ctx)


OUTPUT = OutputPath(path_type=Path)
NUMBER_FORMAT = click.Choice(["auto", "fp32", "tf32", "bf16", "fp16"])
PROBABILITY, FRACTION = click.FloatRange(0, 1), click.FloatRange(0, 1, min_open=True, max_open=True)
PART = click.FloatRange(0, 1, max_open=True)


def _group(*options: Decorator) -> Decorator:
    """Make one decorator that adds several options; the help shows them in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _fold_numbers(context: click.Context, option: click.Option, texts: Sequence[str]) -> list[int]:
    """Return the fold numbers of ``--fold 1,3``, of ``--fold 1 --fold 3``, or of ``--folds 1,3`` (old spelling)."""
    numbers: list[int] = context.meta.setdefault("cvrnet.folds", [])
    if texts and option.hidden:
        say("Warning: use --fold to select folds of a run; --folds N is the number of folds to make")
    for name in names(",".join(texts)):
        if not name.isdigit():
            raise click.BadParameter(f"{name!r} is not a fold; expected numbers such as 1,3")
        numbers.append(int(name))
    return numbers


folds = _group(
    click.option(
        "--fold", "folds", multiple=True, callback=_fold_numbers, help="Folds of the run, such as 1,3.  [default: all]"
    ),
    click.option("--folds", "old_folds", multiple=True, callback=_fold_numbers, expose_value=False, hidden=True),
)
device = click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.")
amp = click.option("--amp", type=NUMBER_FORMAT, default="auto", help="Number format; auto: the fastest on the device.")
BATCH, SEED = click.IntRange(1, 65_536), click.IntRange(0, 2**32 - 1)  # as in `TrainConfig`
batch_size = click.option("--batch-size", type=BATCH, default=8, help="Number of images per batch.")
_ANY_BODY_PART = "Read DICOM files of any part of the body, not only of the chest"
any_body_part = click.option("--any-body-part", is_flag=True, help=f"{_ANY_BODY_PART}.")
backend = click.option(
    "--backend",
    type=click.Choice(["auto", "torch", "openvino", "onnxruntime"]),
    help="Software that runs the model. For openvino and onnxruntime, the model is converted once, compared with "
    "PyTorch, and stored. auto: the fastest one for the number of images.  [default: torch; auto for an ONNX file]",
)
inference = _group(folds, batch_size, device, amp, any_body_part)

overwrite = click.option("--overwrite", is_flag=True, help="Replace earlier results when the new ones are complete.")
seed = click.option("--seed", type=SEED, default=0, help="Seed of all random numbers.")
style = click.option("--format", "style", type=click.Choice(FORMATS), default="table", help="Format of the output.")
reported = _group(
    overwrite,
    click.option("--audit/--no-audit", default=True, help="Also audit the data set, as cvrnet audit does."),
    click.option("--maps/--no-maps", default=True, help="Show Grad-CAM of some images in the report."),
)


def output(text: str, type: click.Path = OUTPUT, **settings: Any) -> Decorator:
    """Make the option ``-o``: the folder or file that a command writes."""
    return click.option("-o", "--output", type=type, help=text, **settings)


n_folds = click.option("--folds", "n_folds", type=click.IntRange(3), default=5, help="Number of folds to make.")
test_source = click.option(
    "--test-source", default="", show_default=False, help="Source whose images are used only for testing."
)
split_from = click.option("--split-from", type=PATH, help="Use the folds of another run: the path of its split.csv.")
job = _group(
    click.option(
        "--classes",
        type=class_names,
        help="Class names in order, such as NOR,NCP,CVP or '\"a, b\",c', or @FILE with a name per line.  "
        "[default: alphabetical]",
    ),
    click.option("--cache-dir", "cache_folder", type=PATH, help="Folder for decoded images and their features."),
    click.option(
        "--log",
        type=click.Choice(["tensorboard", "wandb", "trackio"]),
        callback=lambda context, option, value: value or "",
        help="Also report each epoch to this tracker; TensorBoard writes to the run's folder.",
    ),
    click.option("--resume", is_flag=True, help="Continue the run in the output folder; --epochs may now be larger."),
    reported,
)

# Option, type, default and help of every setting of `cvrnet.training.TrainConfig`. The defaults are repeated here,
# because importing that class would import torch; a test compares them.
MODEL: list[tuple[str, Any, Any, str]] = [
    (
        "--model",
        str,
        "cvrnet",
        "Name of any timm classifier (`cvrnet models` lists those of this package), or a trained model: "
        "local-dir:FOLDER or hf-hub:user/repo",
    ),
    (
        "--encoders",
        names,
        "",
        "Encoders of a CVR-Net, such as resnet18,densenet121, hf-hub:user/repo or local-dir:FOLDER",
    ),
    (
        "--encoder-weights",
        names,
        "",
        "Files of encoders' weights: FILE if there is one encoder, otherwise NAME=FILE for each encoder with a file",
    ),
    ("--model-kwargs", key_values, "", "Further arguments of the model, such as scales=deepest,drop_path_rate=0.1"),
]
PROTOCOL: list[tuple[str, Any, Any, str]] = [
    (
        "--pretrained/--no-pretrained",
        bool,
        True,
        "Start from ImageNet weights, which come from an installed package or the Hugging Face Hub",
    ),
    (
        "--class-weights/--no-class-weights",
        bool,
        True,
        "Multiply the loss of each image by N_max / N. N is the size of its class, N_max that of the largest class",
    ),
    ("--img-size", click.IntRange(32, 6000), 224, "Height and width in pixels"),
    ("--in-chans", int, 3, "1 for grey images, 3 for RGB"),
    (
        "--interpolation",
        str,
        "auto",
        "Filter that resizes the images (without keeping the aspect ratio). auto: the filter of a CVR-Net or of a "
        "trained model; nearest for other models",
    ),
    ("--grey-version", click.IntRange(1, 2), 2, "Rule for reducing images to 8 bits; 1: as in cvrnet 0.1"),
    ("--any-body-part/--no-any-body-part", bool, False, _ANY_BODY_PART),
    (
        "--lungs",
        click.Choice(["mask", "crop"]),
        "",
        "mask: make everything outside the lungs black; crop: keep only the box around the lungs. A model that is "
        "trained with this setting stores it, and every command applies it",
    ),
    ("--lungs-margin", click.FloatRange(0, 0.5), 0.05, "Margin around the lungs, as a share of an image's longer side"),
    ("--segmenter", str, "", "With --lungs: output folder of `cvrnet lungs`, whose segmenter finds missing lung masks"),
    ("--batch-size", BATCH, 8, "Number of images in one optimiser step, over all processes together"),
    ("--grad-accum", click.IntRange(1), 1, "Number of parts into which a batch is split to save memory"),
    ("--epochs", click.IntRange(1), 200, "Largest number of epochs"),
    ("--optimizer", str, "adam", "timm's name of the optimiser"),
    ("--lr", click.FloatRange(0, min_open=True), 0.0001, "Initial learning rate"),
    ("--weight-decay", click.FloatRange(0), 0.0, "Weight decay"),
    ("--ema-decay", PART, 0.0, "Validate and save a moving average of the weights with this decay per step; 0: off"),
    ("--label-smoothing", PART, 0.0, "Part of a label's weight that is spread over all classes"),
    (
        "--freeze",
        freezing,
        0,
        "all: train only the heads, on features computed once; N: train only the heads for N epochs, then "
        "the whole network",
    ),
    ("--views", click.IntRange(1), 1, "With --freeze all: number of views of an image (itself and augmented copies)"),
    (
        "--findings",
        names,
        "",
        "Names of findings, if an image may have several; auto: all findings in the column label (Edema|Effusion) "
        "or, if there are no labels, all columns of 1 and 0",
    ),
    ("--uncertain", click.Choice(["ignore", "positive", "negative"]), "ignore", "Meaning of -1 in a finding's column"),
    (
        "--unit",
        click.Choice(["image", "study", "patient"]),
        "image",
        "What has a label: each image, or each bag. A bag is all images with the same study_id (study; a volume is a "
        "study) or the same patient_id (patient). For bags, the encoders are frozen by default",
    ),
    ("--pooling", click.Choice(["attention", "mean", "max"]), "attention", "How the images of a bag are combined"),
    ("--time/--no-time", bool, True, "For bags: tell the model on which day each image was taken (column day)"),
    ("--slices", click.IntRange(1, 600), 64, "For bags: read at most this many slices of a volume, evenly spaced"),
    ("--window", click.Choice(["lung", "soft-tissue"]), "lung", "For bags: Hounsfield window of CT slices"),
    (
        "--outcome",
        str,
        "",
        "Column of an event that is predicted instead of the label. Its cells are the day of the event (empty: no "
        "event), or yes and no; radiographs of that day or later are dropped",
    ),
    (
        "--until",
        click.Choice(["admission", "first"]),
        "first",
        "Radiographs used for --outcome. admission: until the day of admission (day 0); first: all before the first "
        "event",
    ),
    (
        "--horizon",
        click.FloatRange(0, min_open=True),
        14.0,
        "With --outcome: the label is yes if the event comes within this many days",
    ),
    ("--max-pos-weight", click.FloatRange(1), 10.0, "Upper limit of the loss weight of images with a rare finding"),
    ("--lr-factor", float, 0.9, "The learning rate is multiplied by this factor to reduce it"),
    ("--lr-patience", click.IntRange(1), 12, "Reduce the learning rate after this many epochs without improvement"),
    ("--patience", click.IntRange(1), 25, "Stop after this many epochs without improvement"),
    ("--monitor", click.Choice(["val_loss", "val_accuracy"]), "val_loss", "Value that defines improvement"),
    (
        "--sensitivity",
        targets,
        0.9,
        "Sensitivity that each class's threshold reaches on validation images, such as 0.9 or CVP=0.95,NCP=0.9",
    ),
    ("--specificity", targets, "", "Specificity that a class's second threshold reaches on validation images"),
    ("--rotation-p", PROBABILITY, 0.45, "Probability of a rotation"),
    ("--shift-p", PROBABILITY, 0.2, "Probability of a shift, for width and height separately"),
    ("--hflip-p", PROBABILITY, 0.5, "Probability of a horizontal flip"),
    ("--vflip-p", PROBABILITY, 0.5, "Probability of a vertical flip"),
    ("--drop-rate", PROBABILITY, 0.0, "Dropout before the classifiers"),
    ("--val-fraction", FRACTION, 0.2, "Share of validation images (whole patients), if no image has the split val"),
    ("--seed", SEED, 0, "Seed of the initial weights, the order of the images, augmentation and splits"),
    ("--amp", NUMBER_FORMAT, "auto", "Number format; auto selects the fastest one on the device"),
    ("--device", str, "auto", "auto, cpu, cuda, cuda:N or mps"),
    ("--compile/--no-compile", bool, False, "Train through torch.compile: faster steps, but minutes to start"),
    ("--num-workers", click.IntRange(0, 256), 0, "Number of processes that load images"),
]


def _setting(flag: str, kind: Any, default: Any, text: str) -> Decorator:
    """Make an option of training. If it is not given, its value is None, because the defaults depend on the recipe."""
    shown = {"True": "on", "False": "off"}.get(str(default), default)
    return click.option(
        flag, type=kind, default=None, help=f"{text}." + (f"  [default: {shown}]" if shown != "" else "")
    )


lungs = _group(*(_setting(*row) for row in PROTOCOL if row[0] in ("--lungs", "--lungs-margin", "--segmenter")))
findings = _group(*(_setting(*row) for row in PROTOCOL if row[0] in ("--findings", "--uncertain")))
protocol = _group(
    click.option(
        "--recipe",
        type=click.Choice(["paper", "notebook", "modern", "frozen", "studies"]),
        help="Protocol that sets the defaults of the other options. paper: as in the papers; notebook: as in the "
        "authors' notebook; modern: as paper, with a moving average of the weights and label smoothing; frozen: for "
        "frozen encoders; studies: for bags (see --unit).  "
        "[default: for bags with frozen encoders: studies; for images with --freeze all: frozen; otherwise: paper]",
    ),
    *(_setting(*row) for row in PROTOCOL),
)
"""Options for the settings that all models of a benchmark share: those of ``TrainConfig`` that are not in `MODEL`."""
training = _group(*(_setting(*row) for row in MODEL), protocol)
"""Options for every setting of ``cvrnet.training.TrainConfig``."""


def setting_name(flag: str) -> str:
    """Turn ``"--img-size"`` into ``"img_size"``, and ``"--time/--no-time"`` into ``"time"``."""
    return flag.partition("/")[0].removeprefix("--").replace("-", "_")


def training_config(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return two things: a ``TrainConfig`` from the options of `training` or `protocol`, and all other settings."""
    from cvrnet.training import recipe

    known = {setting_name(flag) for flag, *_ in (*MODEL, *PROTOCOL)}
    given = {name: value for name, value in settings.items() if name in known and value is not None}
    others = {name: value for name, value in settings.items() if name not in known | {"recipe"}}
    bags = given.get("unit", "image") != "image" and given.get("freeze", "all") == "all"
    usual = "studies" if bags else "frozen" if given.get("freeze") == "all" else "paper"
    name = settings["recipe"] or usual
    return recipe(name, **given), others
