"""Run the blocks of code in the pages of the documentation, on synthetic radiographs.

A ``bash`` or ``python`` block is run. If it cannot be run here, it follows the line ``<!-- not run: why -->``, and its
commands and options are only compared with the program. ``text`` is output or a transcript; commands in it are also
compared with the program.
"""

from __future__ import annotations

import hashlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from tests.support.figures import draw_nothing
from tests.support.shared import made_once

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
LANGUAGES = {"bash", "python", "text", "{toctree}", "{eval-rst}", "{include}"}


def pages(pattern: str = "**/*.md") -> list[Path]:
    """Return the pages below docs/."""
    return sorted(page for page in DOCS.glob(pattern) if "_build" not in page.parts)


def name(page: Path) -> str:
    """Return the name of a page in the tests."""
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of the page where it begins, and why it is not run."""

    language: str
    text: str
    line: int
    not_run: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found, before, start = [], "", 0
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.lstrip().startswith("```"):
            before = line if line.strip() and not start else before
        elif start:
            text = "\n".join(lines[start : number - 1])
            reason = re.fullmatch(r"\s*<!-- not run: (.+) -->", before)
            found.append(
                Block(lines[start - 1].strip().strip("`").split(" ")[0], text, start, reason[1] if reason else "")
            )
            start, before = 0, ""
        else:
            start = number
    assert not start, f"{name(page)}:{start}: the block has no end"
    return found


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^\s*```.*?^\s*```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


# Commands, and what they may say


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a shell block, each as a list of words; ``>`` is a separate word."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="><|&;")
        words.whitespace_split = True
        if found := list(words):
            yield found


def command_named(words: list[str]) -> click.Command | None:
    """Return the command with which the words after ``cvrnet`` begin; None for the program itself."""
    from cvrnet_cli.commands import cli

    if not words or words[0].startswith("-"):
        return None
    assert words[0] in cli.commands, f"cvrnet has no command {words[0]!r}"
    return cli.commands[words[0]]


def check(words: list[str]) -> None:
    """Fail if the words after ``cvrnet`` name a command, an option or a choice that does not exist."""
    command = command_named(words)
    if command is None or "--help" in words:
        return
    context = click.Context(command, info_name=words[0], max_content_width=100)
    given, _, _ = command.make_parser(context).parse_args(list(words[1:]))
    for parameter in command.params:
        value = given.get(parameter.name)
        required = parameter.required and (value is None or value == ())
        assert not required, f"cvrnet {shlex.join(words)}: {parameter.human_readable_name} is missing"
        if isinstance(value, str) and not isinstance(parameter.type, click.Path):
            parameter.type_cast_value(context, value)


def options_of(command: click.Command | None = None) -> set[str]:
    """Return all spellings of all options, of one command or of all commands."""
    from cvrnet_cli.commands import cli

    of = [command] if command is not None else [cli, *cli.commands.values()]
    return {"--help", "-h"} | {o for c in of for p in c.params for o in (*p.opts, *p.secondary_opts) if o[0] == "-"}


def accelerate_options() -> set[str]:
    """Return the options of ``accelerate launch``."""
    from accelerate.commands.launch import launch_command_parser

    return set(launch_command_parser()._option_string_actions)


# Expensive settings, made small

PROTOCOL = ["--no-pretrained", "--img-size", "64", "--epochs", "1"]
ENCODERS = ["--encoders", "test_resnet"]
OTHERS = ["test_byobnet", "test_resnet", "test_efficientnet", "test_convnext"]
SOURCES = ["site-a", "site-b", "site-c"]


def small(words: list[str]) -> list[str]:
    """Return a command that does the same in seconds: with small networks, images and data sets, and one epoch."""
    words = list(words)
    more: dict[str, list[str]] = {
        "train": [*PROTOCOL, "--no-audit"],
        "crossval": [*PROTOCOL, "--no-audit"],
        "benchmark": [*PROTOCOL, "--no-audit"],
        "evaluate": ["--no-audit"],
        "quickstart": ["--epochs", "1"],
        "lungs": ["--folds", "2", "--epochs", "1"],
        "phantoms": ["--number", "12" if "--follow-up" in words else "24", "--size", "64"],  # patients, or images
    }
    for i, word in enumerate(words[:-1]):
        if word == "--model" and words[0] in ("train", "crossval"):
            words[i + 1] = _small_model(words[i + 1], OTHERS[0])
        elif word == "--models":
            plain = iter(OTHERS)
            words[i + 1] = ",".join(_small_model(model, next(plain)) for model in words[i + 1].split(",")[:2])
        elif word == "--encoders":
            words[i + 1] = ",".join(OTHERS[: words[i + 1].count(",") + 1])
        elif word == "--test-source" and words[i + 1] not in SOURCES:
            words[i + 1] = SOURCES[-1]
    if words[0] in ("train", "crossval") and not {"--encoders", "--collect"} & set(words):
        if "--model" not in words:
            words += ENCODERS
        elif "cvrnet_tiny" in words:  # whose encoders take twice as long to export
            words[words.index("cvrnet_tiny")] = "cvrnet"
            words += ENCODERS
    if words[0] in ("crossval", "benchmark") and not {"--folds", "--split-from", "--collect"} & set(words):
        words += ["--folds", "3"]
    if words[0] == "tune":
        words[words.index("images/")] = "chest.png"  # bfloat16 takes long where the processor emulates it
    if words[0] == "export" and "--img-size" in words:
        words[words.index("--img-size") + 1] = "64"  # the size of the training: a network is traced once
    if words[0] == "export" and "--fold" not in words and Path(words[1], "fold-3").is_dir():
        words += ["--fold", "3"]  # the fold that docs/export.md names: a network is traced once
    if "--collect" not in words:
        words += more.get(words[0], [])
    return [word for word in words if word != "--compile"]


def _small_model(model: str, plain: str) -> str:
    base, colon, part = model.partition(":")
    if base in ("local-dir", "hf-hub"):
        return model
    return ("cvrnet_tiny" if base.startswith("cvrnet") else plain) + colon + part


# Doing what a page says


class Reader:
    """Runs the commands of a page in a folder, as a reader would.

    Args:
        cli: Runs the command line in this process.
        monkeypatch: Restores the environment variables that the page sets.
        store: A folder of the whole session, which all workers share.
    """

    def __init__(self, cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
        self._cli, self._monkeypatch, self._store = cli, monkeypatch, store
        self._names: dict[str, Any] = {"__name__": "page"}

    def read(self, page: Path) -> int:
        """Run the blocks of a page, and check those that cannot be run; return the number of blocks that were run."""
        ran = 0
        for block in blocks(page):
            where = f"{name(page)}:{block.line}"
            assert block.language in LANGUAGES, f"{where}: a block of {block.language or 'nothing'}"
            try:
                if block.language == "text" or (block.language == "bash" and block.not_run):
                    self.check(block.text)
                elif block.language == "bash":
                    self.run(block.text)
                elif block.language == "python":
                    code = compile(block.text, where, "exec")
                    if not block.not_run:
                        exec(code, self._names)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
            ran += block.language in ("bash", "python") and not block.not_run
        return ran

    def check(self, text: str) -> None:
        """Compare the commands of a block with the program."""
        for line in re.sub(r"\\\n", " ", text).splitlines():
            line = line.removeprefix("$ ")
            if match := re.match(r"(?:[A-Z_]+=\S+ )*(?:accelerate launch .* -m )?cvrnet (.*)", line):
                check(shlex.split(match[1], comments=True))

    def run(self, text: str) -> None:
        """Run a shell block."""
        for words in commands(text):
            with self._monkeypatch.context() as patch:
                while "=" in words[0] and words[0].partition("=")[0].isupper():
                    key, _, value = words.pop(0).partition("=")
                    patch.setenv(key, value)
                self._run(words)

    def _run(self, words: list[str]) -> None:
        program, arguments = words[0], words[1:]
        if program == "cvrnet":
            self._cvrnet(arguments)
        elif program == "accelerate":  # in this process alone: that several work together is tested elsewhere
            launch = arguments[: arguments.index("-m")]
            unknown = {word for word in launch if word.startswith("--")} - accelerate_options()
            assert launch[0] == "launch", launch
            assert not unknown, f"accelerate launch has no option {unknown}"
            assert arguments[len(launch) + 1] == "cvrnet", arguments
            self._cvrnet(arguments[len(launch) + 2 :])
        elif program == "pip":
            _check_extras(arguments)
        elif program == "make":
            targets = [word for word in arguments if "=" not in word]
            assert all(re.search(rf"^{t}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for t in targets), targets
        elif program == "export":
            key, _, value = arguments[0].partition("=")
            self._monkeypatch.setenv(key, value)
        elif program == "python" and arguments[0].startswith("examples/"):
            with self._monkeypatch.context() as patch:
                patch.setattr("sys.argv", arguments)
                runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
        elif program == "hf":
            assert arguments == ["auth", "login"], arguments
        elif program in ("mkdir", "cp", "mv", "ls", "cat", "head", "wc"):
            subprocess.run(words, check=True, capture_output=True)
        else:
            raise AssertionError(f"nobody knows how to run {program!r} here; say <!-- not run: why -->")

    def _cvrnet(self, words: list[str]) -> None:
        words, target = (words[: words.index(">")], words[-1]) if ">" in words else (words, "")
        shell = {"|", "&&", "||", ";", "<", ">>", "&"} & set(words)
        assert not shell, f"the shell's {shell} is not read here; say it in two commands"
        check(words)
        if words[0] == "demo":  # serves until it is stopped
            return
        words = small(words)
        if "--int8" in words:  # the small networks here keep fewer classes than a file must
            from cvrnet.onnx import export_onnx

            self._monkeypatch.setitem(export_onnx.__kwdefaults__, "min_agreement", 0.3)
            self._monkeypatch.setitem(export_onnx.__kwdefaults__, "max_accuracy_drop", 1)
        output = next((words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-o", "--output")), "")
        if output and not {"--resume", "--overwrite", "--only-fold"} & set(words):
            _clear(Path(output))  # results of the same name may be there already
        if target or not (key := _identity(words, output)):
            out = self._command(words)
            if target:
                Path(target).write_text(out, encoding="utf-8")
            return
        kept = self._store / f"page-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"

        def keep(folder: Path) -> None:
            self._command(words)
            if output:
                shutil.copytree(output, folder)

        made_once(kept, keep)
        if output and not Path(output).exists():
            shutil.copytree(kept, output)

    def _command(self, words: list[str]) -> str:
        """Run a command of cvrnet; return its output."""
        status, out, err = self._cli(*words)
        found = words[0] == "audit" and "Error:" not in err  # a severe finding
        assert status == 0 or found, f"cvrnet {shlex.join(words)}: {err}"
        return out


def _clear(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _identity(words: list[str], output: str) -> tuple[str, ...]:
    """The values that determine the result of a command that many pages have, so that it is run once for all workers.

    Such commands are a training with the folder's own data, and the list of models; for others, the result is empty.
    """
    if words[0] == "models":
        return tuple(words)
    if words[0] not in ("train", "crossval", "benchmark") or words[1] != "manifest.csv" or "--split-from" in words:
        return ()
    if {"--resume", "--only-fold"} & set(words) or any(word.startswith(("local-dir:", "hf-hub:")) for word in words):
        return ()
    return tuple(word for word in words if word not in (output, "--overwrite"))


def _check_extras(arguments: list[str]) -> None:
    """Check that the extras in a ``pip install`` command exist in this package."""
    table = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    declared = re.findall(r"^(\w+) = ", table, re.MULTILINE)
    assert arguments[0] == "install", arguments
    for word in arguments[1:]:
        if match := re.fullmatch(r"(?:cvrnet|\.)\[([\w,]+)\]", word):
            unknown = set(match[1].split(",")) - set(declared)
            assert not unknown, f"the package has no extra {unknown}"


# What the pages take for granted


def furnish(folder: Path) -> Path:
    """Make the folder in which the commands of every page are run.

    It has ``manifest.csv`` with ``images/`` of three hospitals, ``other-hospital/`` with a folder for each class,
    ``chest.png``, ``run`` (a training) and ``folds`` (a cross-validation).
    """
    from cvrnet.data import read_records, write_phantoms
    from cvrnet.training import TrainConfig
    from cvrnet.workflows import train
    from tests.conftest import PLAIN, TINY
    from tests.support.hub_runs import make_crossval

    manifest = write_phantoms(folder, 27, size=64, sources=SOURCES)
    _class_folders(folder / "other-hospital", 12, seed=1)
    shutil.copy(read_records(manifest)[0].path, folder / "chest.png")
    config = TrainConfig(**TINY | {"encoders": ("test_resnet",), "epochs": 1})
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        train(manifest, folder / "run", config, test_source=SOURCES[-1], **PLAIN)
        make_crossval(folder / "run", folder / "folds", folds=3)
    return folder


def move_in(template: Path, folder: Path, page: Path) -> None:
    """Copy the folder, and add the further files that this page names."""
    shutil.copytree(template, folder, dirs_exist_ok=True, copy_function=_copy)
    text = page.read_text(encoding="utf-8")
    if re.search(r"soup run\b|run/fold-|\brun\b[^\n`]* --folds? ", text):  # here run is a cross-validation
        shutil.rmtree(folder / "run")
        shutil.copytree(folder / "folds", folder / "run")
    if "data/" in text:
        _class_folders(folder / "data", 48, seed=2)
    for data_set in set(re.findall(r"hfds:([\w-]+/[\w@-]+)", text)):  # a folder is taken where there is one of the name
        _class_folders(folder / data_set, 24, seed=3)
    if ".dcm" in text:
        _write_dicoms(folder)
    for file in re.findall(r"\b\w+\.(?:hdf5|h5)\b", text)[:1]:
        _write_keras(folder / file)
        _leave(folder, 1)  # a network of full size reads it
    if "--all --raw" in text:
        _leave(folder, 6)  # a map of each part of the network is drawn for them


def _copy(source: str, target: str) -> None:
    """Link images and weights, because no command changes such a file in place; copy everything else."""
    (os.link if source.endswith((".png", ".safetensors")) else shutil.copy2)(source, target)


def _leave(folder: Path, number: int) -> None:
    """Leave only the first images in ``images/``, and their rows in the manifest."""
    manifest = folder / "manifest.csv"
    rows = "".join(manifest.read_text(encoding="utf-8").splitlines(keepends=True)[: number + 1])
    manifest.write_text(rows, encoding="utf-8")
    for image in (folder / "images").rglob("*.png"):
        if image.relative_to(folder).as_posix() not in rows:
            image.unlink()


def _class_folders(folder: Path, images: int, seed: int) -> None:
    """Write a folder for each class."""
    from cvrnet.data import read_records, write_phantoms

    written = folder.with_name(f"{folder.name}-phantoms")
    for record in read_records(write_phantoms(written, images, size=64, seed=seed)):
        target = folder / record.label / record.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(record.path, target)
    shutil.rmtree(written)


def _write_dicoms(folder: Path) -> None:
    """Write ``scan.dcm``, ``ct/`` (the slices of a patient), and ``dicoms/`` (a folder for each class)."""
    import numpy as np
    import pydicom
    from pydicom.data import get_testdata_file

    def write(target: Path, number: int, patient: str) -> None:
        scan = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
        scan.PatientID, scan.InstanceNumber, scan.SOPInstanceUID = patient, number, f"1.2.3.{number}"
        scan.ImagePositionPatient = [0, 0, 5.0 * number]
        scan.PixelData = np.roll(scan.pixel_array, number, 0).tobytes()
        target.parent.mkdir(parents=True, exist_ok=True)
        scan.save_as(target)

    write(folder / "scan.dcm", 1, "A")
    for i in range(4):
        write(folder / "ct" / f"{i}.dcm", i, "A")
    for i in range(24):
        write(folder / "dicoms" / ("NOR", "NCP", "CVP")[i % 3] / f"{i}.dcm", i, f"patient {i // 3}{i % 3}")


def _write_keras(path: Path) -> None:
    """Write a checkpoint like those of the authors, with two classes; all its weights are the same number."""
    import numpy as np

    from tests.support.keras_checkpoint import notebook_shapes, write_checkpoint

    write_checkpoint(path, shapes=notebook_shapes(2), values=lambda layer, name, shape: np.full(shape, 0.01, "float32"))


def hub_repositories(page: Path) -> set[str]:
    """Return the repositories that a page reads from the Hub but does not push to."""
    text = page.read_text(encoding="utf-8")
    read = set(re.findall(r"(?:hf-hub:|cvrnet pull |model=\")([\w-]+/[\w-]+)", text))
    return read - set(re.findall(r"cvrnet push \S+ ([\w-]+/[\w-]+)(?! --dry-run)", text)) - {"user/repo"}


def set_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let monkeypatch undo what a page changes in this process, and set a key for hashed ids."""
    from cvrnet.data.identity import KEY
    from cvrnet.encoders import registry

    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    monkeypatch.setenv(KEY, "a key of the tests")
