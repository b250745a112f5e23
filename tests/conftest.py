"""Fixtures that every test may use: real radiographs where they are present, phantoms everywhere, a local Hub."""

import atexit
import functools
import gc
import json
import logging
import os
import shutil
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.figures import draw_nothing
from tests.support.hub import LocalHub
from tests.support.pages import Reader
from tests.support.shared import folder_of_session, made_once
from tests.support.traces import trace_once


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The Hub's client reads these when it is imported: no test reaches the real Hub, or the user's token and cache.
HUB_PORT = _free_port()
HUB_HOME = tempfile.mkdtemp(prefix="hub-")
atexit.register(shutil.rmtree, HUB_HOME, ignore_errors=True)
for name in [key for key in os.environ if key.startswith(("HF_", "HUGGING_FACE", "TRANSFORMERS_"))]:
    del os.environ[name]
# `auto` is float32 in the tests, on every processor. Tests marked `both_precisions` run in bfloat16 as well, emulated
# where the processor has no instructions for it. CVRNET_AMP=bf16 runs all of them in bfloat16.
os.environ.setdefault("CVRNET_AMP", "fp32")
os.environ |= {
    "HF_ENDPOINT": f"http://127.0.0.1:{HUB_PORT}",
    "HF_HOME": HUB_HOME,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_XET_CHUNK_CACHE_SIZE_BYTES": "0",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1",
    "NO_PROXY": "127.0.0.1,localhost",
}

# Enough to find a fault in a few runs; `make campaigns` draws 100 examples.
settings.register_profile("quick", max_examples=15)
settings.load_profile("quick")

LONGEST = [
    "robustness",  # it forks, which takes longer when the process is larger
    "training",
    "image_sizes",
    "docs",
    "keras",
    "export",
    "benchmark",
    "site",
    "readme",
    "docs_pages",
    "demo",
    "crossval",
    "every_door",
    "report",
    "hub_pull",
    "hub_failures",
    "novelty",
    "backends",
    "findings",
    "studies",
    "audit_model",
    "figures",
    "cli",
    "wrong_labels",
    "import",
    "calibrate",
    "examples",
    "distributed",
    "repository_encoder_commands",
    "lungs",
    "dicom",
    "keras_files",
    "job",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker is left alone with one."""
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """Keep what was imported out of the garbage collector's rounds, and capture logging in one place."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    for logger in logging.root.manager.loggerDict.values():  # pytest attaches handlers to each of those that do not
        if isinstance(logger, logging.Logger):
            logger.propagate = True


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
def followup() -> Path:
    """The folder of 243 real radiographs of 71 patients over days."""
    return _real("followup")


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
    """Decoded images and the key of pseudonyms go to folders of the tests; the home folder may be read-only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CVRNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests marked `both_precisions` run with `auto` meaning float32, and again with it meaning bfloat16."""
    if metafunc.definition.get_closest_marker("both_precisions"):
        metafunc.parametrize("auto_precision", ["fp32", "bf16"], indirect=True)


@pytest.fixture(autouse=True)
def auto_precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `auto` means in this test."""
    if hasattr(request, "param"):
        monkeypatch.setenv("CVRNET_AMP", request.param)
    return os.environ["CVRNET_AMP"]


@pytest.fixture(autouse=True, scope="session")
def _cheap_networks() -> Iterator[None]:
    """A large new network repeats few uniform random numbers, which most networks then replace."""
    with pytest.MonkeyPatch.context() as patch:
        if "torch" in sys.modules:
            from tests.support.initial_values import draw_few

            draw_few(patch)
        yield


FIGURES_COUNT = ("figure", "picture", "test_report", "report/test_pages")
"""Parts of the names of files whose tests look at figures, or at the size of a page with figures."""


@pytest.fixture(autouse=True, scope="session")
def _cheap_traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each network is traced to ONNX once: tracing a tiny one takes longer than training it."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("onnx"):
            trace_once(patch, folder_of_session(tmp_path_factory))
        yield


@pytest.fixture(autouse=True, scope="session")
def _cheap_audits() -> Iterator[None]:
    """Local features are found once for each picture, and compared once for each set of pictures."""
    with pytest.MonkeyPatch.context() as patch:
        if "cvrnet.audit.measurements" in sys.modules:  # a run of few tests need not import it
            from tests.support.measurements import compare_once, describe_once

            describe_once(patch)
            compare_once(patch)
        yield


LOADING_COUNTS = {"encoders", "network", "runs"}
"""Rooms whose tests look at how a checkpoint is loaded."""


@pytest.fixture(autouse=True, scope="module")
def _cheap_loading(request: pytest.FixtureRequest) -> Iterator[None]:
    """Elsewhere, each network is made once; every checkpoint fills a copy of it."""
    with pytest.MonkeyPatch.context() as patch:
        if not LOADING_COUNTS & set(request.path.parts):
            from tests.support.empty_networks import create_once

            create_once(patch)
        yield


@pytest.fixture(autouse=True, scope="session")
def _cheap_descriptions() -> Iterator[None]:
    """Commands and pages describe the same few models, which builds each anew."""
    with pytest.MonkeyPatch.context() as patch:
        if module := sys.modules.get("cvrnet.model_info"):
            patch.setattr(module, "describe_model", functools.cache(module.describe_model))
        yield


FILMS_COUNT = {"test_phantoms", "test_studies"}
"""Files whose tests look at how phantoms are drawn."""


@pytest.fixture(autouse=True, scope="module")
def _cheap_films(request: pytest.FixtureRequest) -> Iterator[None]:
    """Elsewhere, each worker draws a phantom once."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem not in FILMS_COUNT:
            from tests.support.phantoms import draw_once

            draw_once(patch)
        yield


FORESTS_COUNT = {"test_audit", "test_several_findings"}
"""Files whose tests look at what an audit's forests find."""


@pytest.fixture(autouse=True, scope="module")
def _cheap_probes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Elsewhere, an audit's probes are smaller: they train hundreds of forests."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem not in FORESTS_COUNT and "cvrnet.audit.probes" in sys.modules:
            patch.setattr("cvrnet.audit.probes.TREES", 5)
            patch.setattr("cvrnet.audit.probes.PERMUTATIONS", 1)
        yield


INTERVALS_COUNT = {"audit", "metrics", "report", "runs"}
"""Rooms whose tests look at intervals."""


@pytest.fixture(autouse=True, scope="module")
def _cheap_intervals(request: pytest.FixtureRequest) -> Iterator[None]:
    """Elsewhere, intervals come from 100 resamples instead of 1,000."""
    with pytest.MonkeyPatch.context() as patch:
        if not INTERVALS_COUNT & set(request.path.parts):
            for name in ("bootstrap", "findings"):
                if module := sys.modules.get(f"cvrnet.metrics.{name}"):
                    patch.setattr(module, "resample", functools.partial(_resample_less, module.resample))
        yield


def _resample_less(resample: Any, members: Any, n_groups: int, n: int, seed: int) -> Any:
    return resample(members, n_groups, min(n, 100), seed)


@pytest.fixture(autouse=True, scope="session")
def _cheap_validation() -> Iterator[None]:
    """scikit-learn's check for data frames, which arrays are not, takes half of the time of an AUC of few images."""
    with pytest.MonkeyPatch.context() as patch:
        validation: Any = sys.modules.get("sklearn.utils.validation")
        if check := getattr(validation, "_nw_into_df_or_series", None):
            import numpy as np

            patch.setattr(validation, check.__name__, lambda x: type(x) is not np.ndarray and check(x))
        yield


@pytest.fixture(autouse=True, scope="session")
def _cheap_clients() -> Iterator[None]:
    """Every client of the Hub would read all certificates of the system again, although the local Hub has none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture(autouse=True, scope="module")
def _cheap_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where no test looks at figures, none are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        if not any(part in f"{request.path.parent.name}/{request.path.stem}" for part in FIGURES_COUNT):
            draw_nothing(patch)
        yield


SYNCS_COUNT = {"package"}
"""Rooms whose tests look at how files are written."""


@pytest.fixture(autouse=True, scope="module")
def _cheap_writes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Elsewhere nothing waits for the disk: a tiny training writes fifty files, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        if not SYNCS_COUNT & set(request.path.parts):
            patch.setattr(os, "fsync", lambda descriptor: None)
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


PLAIN: dict[str, Any] = {"audit": False, "maps": False}
"""A job's arguments for a report without audit and maps, which take longer than a tiny training."""

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
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `data` and `run` that all workers share."""
    from cvrnet.data import write_phantoms
    from cvrnet.training import TrainConfig
    from cvrnet.workflows.train import train

    def make(folder: Path) -> None:
        manifest = write_phantoms(folder / "data", 36, size=64)
        with pytest.MonkeyPatch.context() as patch:
            draw_nothing(patch)
            train(manifest, folder / "run", TrainConfig(**TINY), test_source="site-b", **PLAIN)

    return made_once(folder_of_session(tmp_path_factory) / "trained", make)


@pytest.fixture(scope="session")
def run(phantoms: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the phantoms, with site-b as the test source."""
    folder = shutil.copytree(trained / "run", tmp_path_factory.mktemp("runs") / "run")
    # Each worker has phantoms of its own, because tests add manifests beside them.
    about = (folder / "run.json").read_text(encoding="utf-8")
    theirs, ours = (json.dumps(str(path))[1:-1] for path in (trained / "data", phantoms.parent))
    assert theirs in about
    (folder / "run.json").write_text(about.replace(theirs, ours), encoding="utf-8")
    return folder


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """An empty Hub that the real client talks to, with a cache and a token of its own; large files go through LFS."""
    with _serve(tmp_path_factory, monkeypatch, xet=False) as hub:
        yield hub


@pytest.fixture
def xet_hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """As `hub`, with Xet."""
    with _serve(tmp_path_factory, monkeypatch, xet=True) as hub:
        yield hub


@pytest.fixture(params=["lfs", "xet"])
def either_hub(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalHub]:
    """As `hub`, once with LFS and once with Xet, whose real client then stores large files on disk."""
    with _serve(tmp_path_factory, monkeypatch, xet=request.param == "xet") as hub:
        yield hub


def _serve(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, xet: bool) -> LocalHub:
    import time

    from huggingface_hub import close_session, constants

    close_session()  # connections to the last test's hub
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return LocalHub(folder / "xet" if xet else None, HUB_PORT)


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the pages of the documentation are read in, with data and trained runs; not to be changed."""
    from tests.support import pages

    return made_once(folder_of_session(tmp_path_factory) / "furnished", pages.furnish)


@pytest.fixture
def reader_of(
    furnished: Path, tmp_path: Path, cli: Cli, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], Reader]:
    """Somebody who does what a page says, in a folder of his own and with a Hub of his own."""
    from tests.support import pages

    def sit_down(page: Path) -> Reader:
        pages.set_environment(monkeypatch)
        monkeypatch.chdir(tmp_path)
        pages.move_in(furnished, tmp_path, page)
        for repository in pages.hub_repositories(page):
            assert cli("push", "folds", repository)[0] == 0
        return Reader(cli, monkeypatch, furnished.parent)

    return sit_down
