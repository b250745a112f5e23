"""Standard streams that are closed, full or no longer read, and ``-`` in the place of a file."""

import os
import subprocess
import sys
from contextlib import suppress

import click
import pytest

from cvrnet_cli.commands import cli as group
from cvrnet_cli.options import OutputPath

COMMANDS = sorted(group.commands)
ROOMY = [("models",), ("doctor",), ("predict", "RUN", "IMAGES"), *((command, "--help") for command in COMMANDS)]


@pytest.fixture
def arguments(request, phantoms, monkeypatch):
    """The words of a command that writes to stdout, with a run and images where it needs them; of few models."""
    monkeypatch.setattr("cvrnet.list_models", lambda: ["cvrnet_tiny"])
    places = {"RUN": lambda: request.getfixturevalue("run"), "IMAGES": lambda: phantoms.parent / "images/site-a"}
    return [str(places[word]()) if word in places else word for word in request.param]


def start(arguments, monkeypatch, stdout):
    from cvrnet_cli import main

    monkeypatch.setattr(sys, "argv", ["cvrnet", *arguments])
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize("arguments", ROOMY, indirect=True, ids=" ".join)
def test_a_closed_stdout_is_one_line(arguments, monkeypatch, capsys):
    assert start(arguments, monkeypatch, None) == 1  # Python's stdout after >&-
    assert capsys.readouterr().err == "Error: stdout: Bad file descriptor\n"


@pytest.mark.parametrize("arguments", ROOMY, indirect=True, ids=" ".join)
def test_a_reader_that_has_gone_ends_the_command_quietly(arguments, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    stdout = os.fdopen(writer, "w")
    assert start(arguments, monkeypatch, stdout) == 1
    sys.stdout.flush()  # as Python does when it ends
    with suppress(BrokenPipeError):
        stdout.close()
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("arguments", ROOMY[:4], indirect=True, ids=" ".join)
def test_a_full_disk_behind_stdout_is_one_line(arguments, monkeypatch, capsys):
    with open("/dev/full", "w") as stdout:
        assert start(arguments, monkeypatch, stdout) == 1
        sys.stdout.flush()
    assert capsys.readouterr().err == "Error: No space left on device (free some space)\n"


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix")
@pytest.mark.parametrize(
    ("redirection", "status", "err"),
    [
        (">&-", 1, "Error: stdout: Bad file descriptor\n"),
        (">&- 2>&-", 1, ""),
        ("<&- >/dev/null", 0, ""),
        ("2>&- >/dev/null", 0, ""),
    ],
)
def test_streams_that_the_shell_has_closed(redirection, status, err):
    command = f'"{sys.executable}" -c "import cvrnet_cli; cvrnet_cli.main()" train --help {redirection}'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (status, err)


WRITERS = {name: next(p for p in command.params if p.name == "output") for name, command in group.commands.items()
           if any(p.name == "output" for p in command.params)}  # fmt: skip


@pytest.mark.parametrize("command", sorted(WRITERS))
def test_a_dash_is_stdout_or_refused(command):
    option = WRITERS[command]
    assert isinstance(option.type, OutputPath)
    convert = option.type.convert
    assert str(convert("./-", option, None)) == "-"
    with pytest.raises(click.BadParameter, match="''; expected the name of a file or folder"):
        convert("", option, None)
    if command == "predict":
        assert convert("-", option, None) is None
    else:
        with pytest.raises(click.BadParameter, match=r"^'-'; expected the name"):
            convert("-", option, None)


def test_predictions_to_a_dash_are_those_to_stdout(cli, run, phantoms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = next((phantoms.parent / "images/site-a").glob("*.png"))
    assert cli("predict", run, image, "-o", "-")[:2] == cli("predict", run, image)[:2]
    status, _, err = cli("train", phantoms, "-o", "-")
    assert status == 2
    assert "Error: Invalid value for '-o' / '--output': '-'; expected the name" in err
    assert not any(tmp_path.iterdir())
