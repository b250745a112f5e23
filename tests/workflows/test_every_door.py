"""A job is the same through the command line and through Python: the same files, byte for byte, apart from times."""

import io
import re
import shutil
from contextlib import ExitStack

import pytest
import torch

from cvrnet import workflows
from cvrnet.data import write_phantoms
from cvrnet.training import TrainConfig
from tests.conftest import PLAIN
from tests.support.figures import real_figures

CONFIG = TrainConfig(model="test_efficientnet", pretrained=False, img_size=32, epochs=1)
OPTIONS = ["--model", "test_efficientnet", "--no-pretrained", "--img-size", "32", "--epochs", "1"]
PROTOCOL = OPTIONS[2:]
TIMES = {
    "history.csv": r"[\d.]+(?=,[01]$)",  # seconds
    "learning_curves.csv": r"[\d.]+(?=,[01]$)",
    "speed.json": r'(?<="images_per_second": )[\d.]+',
    "benchmark.json": r'(?<=_seconds": )[\d.]+|(?<="images_per_second": )[\d.]+',
    "benchmark.csv": r"\d+\.\d(?=,)",
    "benchmark.md": r"\d+\.\d(?= \|)",
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """30 phantoms: few, since every job below audits them."""
    return write_phantoms(tmp_path_factory.mktemp("doors") / "phantoms", 30, size=64)


@pytest.fixture(scope="module")
def three_folds(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors") / "three"
    workflows.cross_validate(manifest, folder, CONFIG, n_folds=3, test_source="site-b", **PLAIN)
    return folder


JOBS = {
    "train": (
        lambda data, run, out: workflows.train(data, out, CONFIG, test_source="site-b"),
        lambda data, run, out: ["train", data, "-o", out, "--test-source", "site-b", *OPTIONS],
    ),
    "crossval": (
        lambda data, run, out: workflows.cross_validate(data, out, CONFIG, n_folds=3),
        lambda data, run, out: ["crossval", data, "-o", out, "--folds", 3, *OPTIONS],
    ),
    "leave-one-source-out": (
        lambda data, run, out: workflows.leave_one_source_out(data, out, CONFIG, n_folds=3),
        lambda data, run, out: ["crossval", data, "-o", out, "--folds", 3, "--leave-one-source-out", *OPTIONS],
    ),
    "benchmark": (
        lambda data, run, out: workflows.benchmark(data, out, ["test_efficientnet"], CONFIG, n_folds=3),
        lambda data, run, out: ["benchmark", data, "-o", out, "--models", "test_efficientnet", "--folds", 3, *PROTOCOL],
    ),
    "evaluate": (
        lambda data, run, out: workflows.evaluate(str(run), data, out),
        lambda data, run, out: ["evaluate", run, data, "-o", out],
    ),
    "soup": (
        lambda data, run, out: workflows.make_soup(run, out),
        lambda data, run, out: ["soup", run, "-o", out],
    ),
}


def without_times(path):
    """A training's state, saved again without the seconds of its epochs."""
    saved, again = torch.load(path, weights_only=True), io.BytesIO()
    for row in saved["state"]["history"]:
        row.pop("seconds")
    torch.save(saved, again)
    return again.getvalue()


def contents(folder):
    """Name of each file to its content, without times."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        if path.name == "last-epoch.pt":
            content = without_times(path)
        if path.name in TIMES:
            content = re.sub(TIMES[path.name], "TIME", content.decode(), flags=re.M)
        found[path.relative_to(folder).as_posix()] = content
    return found


@pytest.fixture
def drawn():
    with ExitStack() as stack:
        yield stack


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_the_command_and_the_function_leave_the_same_files(job, manifest, three_folds, tmp_path, cli, drawn):
    function, command = JOBS[job]
    if job == "train":
        drawn.enter_context(real_figures())
    output = tmp_path / "run"  # one name for both, because reports name their folder
    function(manifest, three_folds, output)
    from_python = contents(output)
    shutil.rmtree(output)
    status, _, err = cli(*command(manifest, three_folds, output))
    assert status == 0, err
    assert contents(output) == from_python
    reported = [name for name in from_python if name.endswith("report.html")]
    assert reported
    assert all(name.replace("report.html", "audit.json") in from_python for name in reported)
