"""The same answers from PyTorch, OpenVINO and ONNX Runtime, for a run of folds with gates."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from cvrnet import Predictor
from cvrnet.errors import UserError
from cvrnet.heads.novelty import NoveltyHead
from cvrnet.inference import converted_engine
from cvrnet.inference.converted_engine import ConvertedEngine
from cvrnet.inference.torch_engine import TorchEngine
from cvrnet.runs.novelty import save_novelty
from tests.support.folds import small_fold, write_folds

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(not find_spec(name), reason=f"needs {name}"))
    for name in ("openvino", "onnxruntime")
]


@pytest.fixture(scope="module")
def folds(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds that disagree, each with a gate; their copies are kept for all tests of this module.

    A gate's result is sometimes the distance, and sometimes the value for mirrored images.
    """
    folder = write_folds(run, tmp_path_factory.mktemp("folds"), 2, small_fold)
    width = sum(small_fold(1).widths)
    for fold in (1, 2):
        directions = torch.linalg.qr(torch.randn(width, 3))[0].T
        values = torch.linspace(1, 4, 201)
        gaussian = torch.rand(width) / width, directions, torch.rand(3), torch.tensor(0.5)
        sides = torch.randn(2 * width), torch.tensor(2.4)
        save_novelty(folder / f"fold-{fold}", NoveltyHead(*gaussian, values, *sides))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, folds: Path) -> None:
    monkeypatch.setenv("CVRNET_CACHE", str(folds.parent / "cache"))


@pytest.fixture
def images(phantoms: Path) -> list[Path]:
    return sorted(phantoms.parent.glob("images/*/*.png"))[:5]


@pytest.fixture
def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvrnet.onnx.converted.write_checked", lambda *given: pytest.fail("the model was converted"))


@pytest.mark.usefixtures("no_conversion")
@pytest.mark.parametrize("images_ahead", [0, 49])
def test_auto_converts_nothing_for_few_images(folds: Path, images_ahead: int) -> None:
    assert isinstance(Predictor.from_pretrained(folds, "cpu", backend="auto", images=images_ahead).engine, TorchEngine)


@pytest.mark.parametrize("backend", ENGINES)
def test_the_answers_are_pytorchs(
    folds: Path, images: list[Path], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Predictor.from_pretrained(folds, "cpu", "fp32")(images, heads=True)
    for _ in range(2):
        predictor = Predictor.from_pretrained(folds, "cpu", "fp32", backend=backend)
        assert isinstance(predictor.engine, ConvertedEngine)
        for found, known in zip(predictor(images, batch_size=3, heads=True), expected, strict=True):
            np.testing.assert_allclose(found.probabilities, known.probabilities, atol=1e-4)
            np.testing.assert_allclose(found.heads, known.heads, atol=1e-4)
            assert found.mutual_information == pytest.approx(known.mutual_information, abs=1e-4)
            assert found.unlike_training == pytest.approx(known.unlike_training, abs=0.01)
            np.testing.assert_allclose(found.distances, known.distances, rtol=1e-3)
        # The second time, the copies and the results of their checks are there.
        monkeypatch.setattr("cvrnet.onnx.converted.write_checked", lambda *given: pytest.fail("converted again"))
        monkeypatch.setattr("cvrnet.onnx.converted.check_pixels", lambda *given: pytest.fail("compared again"))
    assert np.ptp([known.unlike_training for known in expected]) > 0
    assert min(known.mutual_information for known in expected) > 0, "the folds do not disagree"


def test_an_exported_fold_knows_what_is_unlike_its_training(folds: Path, images: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from cvrnet.onnx import export_onnx

    export_onnx(folds / "fold-1", tmp_path / "model.onnx")
    expected = Predictor.from_pretrained(folds / "fold-1", "cpu", "fp32")(images)
    found = Predictor.from_pretrained(tmp_path / "model.onnx", "cpu", "fp32")(images)
    distances = [known.distances for known in expected]
    np.testing.assert_allclose([image.distances for image in found], distances, rtol=1e-3)
    assert min(distances) < 2.45 < max(distances), "only one of the gate's two values decides"
    unlike = [known.unlike_training for known in expected]
    np.testing.assert_allclose([image.unlike_training for image in found], unlike, atol=0.02)
    assert np.ptp(unlike) > 0


def test_auto_takes_the_faster_one(folds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    times = {TorchEngine: 2.0, ConvertedEngine: 1.0}
    monkeypatch.setattr("cvrnet.inference.backends._seconds", lambda engine, pixels: times[type(engine)])
    assert isinstance(Predictor.from_pretrained(folds, "cpu", backend="auto").engine, ConvertedEngine)
    times[ConvertedEngine] = 3.0
    assert isinstance(Predictor.from_pretrained(folds, "cpu", backend="auto").engine, TorchEngine)


def test_a_copy_that_differs_too_much_is_refused(folds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, float32 is tried before."""
    opened = []

    def difference(engine: ConvertedEngine, number: int, copy: object, network: object) -> float:
        opened.append(engine.precision)
        return 0.5

    monkeypatch.setattr(ConvertedEngine, "_difference", difference)
    backend = "openvino" if find_spec("openvino") else "onnxruntime"
    with pytest.raises(UserError, match=r"in fp32 differ from PyTorch's by 5.0e-01; expected at most 1e-04"):
        Predictor.from_pretrained(folds, "cpu", backend=backend)
    assert opened in (["fp32"] * 2, ["bf16"] * 2 + ["fp32"] * 2)
    assert converted_engine.TOLERANCES["bf16"] == 5e-3  # the bound that docs/performance.md states


@pytest.mark.usefixtures("no_conversion")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"backend": "tensorrt"}, "backend 'tensorrt' is not known; expected one of auto, torch"),
        ({"backend": "openvino", "compile": True}, "compile is for PyTorch"),
        ({"backend": "onnxruntime", "dtype": "fp16"}, "fp16 needs a CUDA device"),
    ],
)
def test_what_does_not_fit_is_refused(folds: Path, options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Predictor.from_pretrained(folds, "cpu", **options)  # type: ignore[arg-type]


def test_the_command_line_takes_a_backend(cli, folds: Path, images: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    answers = []
    for options in ([], ["--backend", "onnxruntime"]):
        status, out, err = cli("predict", folds, *images, "--amp", "fp32", "--format", "jsonl", *options)
        assert status == 0, err
        answers.append([json.loads(line) for line in out.splitlines()])
    for one, other in zip(*answers, strict=True):
        assert one["prediction"] == other["prediction"]
        assert one["prob_CVP"] == pytest.approx(other["prob_CVP"], abs=1e-4)
