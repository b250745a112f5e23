"""Fixtures that every test may use: real radiographs where they are present, phantoms everywhere."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def _real(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"real radiographs not present: {folder}")
    return folder


@pytest.fixture(scope="session")
def cxr() -> Path:
    """The folder of 1,552 real radiographs."""
    return _real("cxr")


@pytest.fixture(scope="session")
def odd() -> Path:
    """The folder of awkward and broken image files."""
    return _real("odd")


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of 36 small synthetic radiographs from two sources."""
    from cvrnet.data import write_phantoms

    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms", 36, size=64)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images of the tests go to a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CVRNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


class Cli:
    """Runs the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit status, what went to stdout, and to stderr; anything but a clean exit fails the test."""
        from cvrnet_cli import main

        self._capsys.readouterr()
        self._monkeypatch.setattr("sys.argv", ["cvrnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = self._capsys.readouterr()
        return int(exit_.value.code or 0), out, err


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line: ``status, out, err = cli("predict", run, image)``."""
    return Cli(capsys, monkeypatch)


TINY: dict[str, Any] = {
    "model": "cvrnet",
    "encoders": ("test_resnet", "test_efficientnet"),
    "pretrained": False,
    "img_size": 64,
    "epochs": 2,
    "lr": 1e-3,
}
"""Settings of a training that takes seconds."""


@pytest.fixture(scope="session")
def run(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the phantoms, with site-b as the test source."""
    from cvrnet.training import TrainConfig, train

    folder = tmp_path_factory.mktemp("runs") / "run"
    train(phantoms, folder, TrainConfig(**TINY), test_source="site-b")
    return folder
