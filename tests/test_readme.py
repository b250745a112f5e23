"""The README's code runs as it stands, on synthetic radiographs and with settings that take seconds."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
TINY = ["--encoders", "test_resnet,test_efficientnet", "--no-pretrained", "--img-size", "64", "--epochs", "1"]
SMALL = {"train": TINY, "crossval": TINY, "benchmark": ["--models", "test_resnet,test_byobnet", *TINY[2:]]}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def workspace(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the README takes for granted: a manifest, another hospital's folder, images, one of them chest.png."""
    shutil.copytree(phantoms.parent / "images", tmp_path / "images")
    (tmp_path / "manifest.csv").write_text(
        "\n".join(",".join(line.split(",")[:4]) for line in phantoms.read_text().splitlines())
    )
    for line in phantoms.read_text().splitlines()[1:]:
        path, label = line.split(",")[:2]
        target = tmp_path / "other-hospital" / label / Path(path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(phantoms.parent / path, target)
    shutil.copy(target, tmp_path / "chest.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readme(workspace, cli):
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("cvrnet ")]
    assert len(commands) >= 4
    for command in commands:
        arguments = shlex.split(command, comments=True)[1:]
        status, _, err = cli(*arguments, *SMALL.get(arguments[0], []))
        assert status == 0, err
    python = blocks("python")
    assert len(python) >= 2
    for block in python:
        exec(compile(block, "README.md", "exec"), {})


def test_the_two_commands_stand_at_the_top():
    head = README.read_text(encoding="utf-8").splitlines()[:10]
    assert any(line.startswith("make quickstart") for line in head)
    assert any(line.startswith("make test") for line in head)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
