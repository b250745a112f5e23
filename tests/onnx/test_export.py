"""ONNX files: the answers of PyTorch, by two engines; nothing of this machine in them; bad files named."""

import copy
import getpass
import hashlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cvrnet.devices import has_bf16
from cvrnet.errors import UserError
from cvrnet.heads.novelty import NoveltyHead
from cvrnet.inference import Predictor
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from cvrnet.runs.novelty import save_novelty
from tests.support.folds import CLASSES, small_fold, write_folds
from tests.support.networks import enliven
from tests.support.traces import digest_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import cvrnet  # noqa: E402
import cvrnet.onnx.export  # noqa: E402
from cvrnet.onnx import export_onnx, load_onnx  # noqa: E402
from cvrnet.onnx.check_images import split_calibration  # noqa: E402
from cvrnet.onnx.export import load_network  # noqa: E402
from cvrnet.onnx.quantize import check_agreement  # noqa: E402

without_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
ENGINES = ["onnxruntime", pytest.param("openvino", marks=without_openvino)]


@pytest.fixture(scope="module")
def folds(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two folds whose answers differ from image to image and from one another; small, to be traced fast."""
    return write_folds(run, tmp_path_factory.mktemp("folds"), 2, small_fold)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of timm's own, of grey images; without a run.json."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (1, 64, 64), "mean": (0.4,), "std": (0.3,)}
    enliven(model)
    folder = tmp_path_factory.mktemp("plain") / "run"
    save_checkpoint(model, folder, CLASSES)
    return folder


@pytest.fixture(scope="module")
def exported(folds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    report = export_onnx(folds, file)
    assert report == {"folds": 2, "checked_on": "16 images of the training data"} | {
        "max_difference": report["max_difference"]
    }
    assert report["max_difference"] < 1e-4
    return file


@pytest.fixture
def images(phantoms):
    return sorted(phantoms.parent.glob("images/*/*.png"))[:7]


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def plain_session(file: Path) -> "onnxruntime.InferenceSession":
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("number", "amp", "engine"), [(99, "auto", 0), (100, "auto", 1), (None, "auto", 1), (1, "bf16", 1)]
)
def test_few_images_are_predicted_by_the_engine_that_opens_a_file_faster(exported, number, amp, engine):
    pytest.importorskip("openvino")
    if amp == "bf16" and not has_bf16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16")
    predictor = Predictor.from_pretrained(exported, "cpu", amp, images=number)
    assert predictor.engine.engine == ("onnxruntime", "openvino")[engine]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_answers_are_pytorchs(folds, exported, images, engine):
    expected = Predictor.from_pretrained(folds, device="cpu", dtype="fp32")(images, batch_size=3, heads=True)
    predictor = Predictor.from_pretrained(exported, device="cpu", dtype="fp32", backend=engine)
    assert predictor.classes == CLASSES
    got = predictor(images, batch_size=4)
    np.testing.assert_allclose([p.probabilities for p in got], [p.probabilities for p in expected], atol=1e-4)
    heads = [p.heads for p in predictor(images, batch_size=2, heads=True)]
    np.testing.assert_allclose(heads, [p.heads for p in expected], atol=1e-4)
    assert np.ptp([p.probabilities for p in expected], axis=0).max() > 0.01, "every image gets the same answer"


@without_openvino
def test_signals_are_safe_after_another_thread_releases_a_model(exported):
    """OpenVINO frees the stack on which the main thread handles signals, unless we keep OpenVINO itself."""
    program = """
import signal, subprocess, sys, threading
from cvrnet.onnx import load_onnx
models = [load_onnx(sys.argv[1], engine="openvino")]
thread = threading.Thread(target=models.clear)
thread.start()
thread.join()
heard = []
signal.signal(signal.SIGCHLD, lambda number, frame: heard.append(number))
subprocess.run([sys.executable, "-c", ""], check=True)
sys.exit(0 if heard else 9)
"""
    command = [sys.executable, "-X", "faulthandler", "-c", program, str(exported)]
    assert subprocess.run(command).returncode == 0


def test_a_file_is_predicted_without_pytorch(exported, images):
    """Nor with timm, scikit-learn, SciPy, pandas or huggingface_hub, whose imports take seconds."""
    program = """
import sys
sys.modules |= dict.fromkeys("torch timm sklearn scipy pandas huggingface_hub".split())  # none can be imported
from cvrnet_cli import main
main()
"""
    command = [sys.executable, "-c", program, "predict", str(exported), str(images[0]), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert answer["prediction"] in CLASSES


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_do_not_depend_on_their_batch(exported, engine):
    network = load_onnx(exported, "cpu", "fp32", engine)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), np.uint8)
    alone = np.concatenate([network.logits(image[None]) for image in pixels])

    @settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
    def check(rows):
        np.testing.assert_allclose(network.logits(pixels[rows]), alone[rows], atol=1e-5, rtol=1e-5)

    check()


def test_a_user_of_onnxruntime_needs_nothing_of_ours(folds, exported, images):
    """Pillow, NumPy and ONNX Runtime give what the library gives, by what the file says of itself."""
    session = plain_session(exported)
    metadata = session.get_modelmeta().custom_metadata_map
    cfg = json.loads(metadata["pretrained_cfg"])
    assert cfg["interpolation"] == "nearest"
    _, height, width = cfg["input_size"]
    opened = [Image.open(file).convert("RGB").resize((width, height), Image.Resampling.NEAREST) for file in images]
    pixels = np.stack([np.asarray(image).transpose(2, 0, 1) for image in opened])
    logits, heads = session.run(["logits", "head_logits"], {"pixels": pixels})
    expected = Predictor.from_pretrained(folds, device="cpu", dtype="fp32")(images)
    np.testing.assert_allclose(softmax(logits), [p.probabilities for p in expected], atol=1e-4)
    np.testing.assert_allclose(softmax(heads).mean(1), softmax(logits), atol=1e-5)
    assert [cfg["label_names"][i] for i in logits.argmax(1)] == [p.label for p in expected]


def test_what_the_file_says_of_itself(folds, exported):
    proto = onnx.load(exported)
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 18)]
    assert proto.ir_version == 8, "the IR of ONNX 1.13, which brought operator set 18 (ONNX's Versioning.md)"
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert not [node for node in proto.graph.node if node.op_type == "BatchNormalization"], "batch norm is not folded"
    metadata = {p.key: p.value for p in proto.metadata_props}
    provenance = json.loads(metadata["provenance"])
    sums = [hashlib.sha256((folds / f"fold-{k}" / "model.safetensors").read_bytes()).hexdigest() for k in (1, 2)]
    assert provenance["weights"] == [{"fold": f"fold-{k}", "sha256": s} for k, s in enumerate(sums, start=1)]
    assert provenance["kind"] == "train"
    assert provenance["exported_with"]["torch"] == version("torch")
    assert "not a medical device" in metadata["note"]


def test_nothing_of_this_machine_is_in_the_file(folds, exported):
    content = exported.read_bytes()
    places = [folds, exported.parent, Path.home(), Path.cwd(), Path(cvrnet.__file__).parent, Path(timm.__file__).parent]
    words = [*map(str, places), "site-packages", 'File "', "stack_trace"]
    words += [word for word in (getpass.getuser(), socket.gethostname()) if len(word) > 5]
    assert [word for word in words if len(word) > 3 and word.encode() in content] == []


def test_a_plain_timm_model_of_another_size(plain, tmp_path, images):
    report = export_onnx(plain, tmp_path / "model.onnx", img_size=96)
    assert report["checked_on"] == "16 phantoms (synthetic images)"
    predictor = Predictor.from_pretrained(tmp_path / "model.onnx", device="cpu", dtype="fp32")
    assert predictor.preprocessing.input_size == (1, 96, 96)
    assert not predictor.averages_probabilities
    model = load_checkpoint(plain)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (1, 96, 96)}
    expected = Predictor([model], device="cpu", dtype="fp32")(images)
    got = predictor(images)
    np.testing.assert_allclose([p.probabilities for p in got], [p.probabilities for p in expected], atol=1e-4)


def test_networks_that_differ_are_traced_apart(plain, tmp_path):
    """The tests trace a network once: the same from another folder or with other weights, but none of another setting.

    Each file has its own network's weights. A tensor of zeros is left out of a graph, and one that equals another is
    joined with it, so these are differences. A copy is the same.
    """
    moved = shutil.copytree(plain, tmp_path / "moved")
    network, same, heavier, emptier, equal, coarser = (
        load_network([folder]) for folder in (plain, moved, *[plain] * 4)
    )
    weight = heavier.get_parameter("models.0.fc.weight")
    weight.data[0, 0] += 1e-6
    emptier.get_parameter("models.0.fc.bias").data[:] = 0
    equal.get_parameter("models.0.layer1.0.conv1.bias").data[:] = equal.get_parameter("models.0.layer1.0.conv2.bias")
    coarser.get_submodule("models.0.conv1").stride = (4, 4)
    assert digest_of(network) == digest_of(same) == digest_of(heavier) == digest_of(copy.deepcopy(network))
    assert len({digest_of(each) for each in (network, emptier, equal, coarser)}) == 4
    cvrnet.onnx.export.trace(network)
    (found,) = (v for v in cvrnet.onnx.export.trace(heavier).graph.initializer if v.name == "models.0.fc.weight")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(found), weight.detach().numpy())


def test_a_file_that_differs_is_not_written(plain, tmp_path, monkeypatch):
    trace = cvrnet.onnx.export.trace

    def spoiled(network):
        proto = trace(network)
        name = [node for node in proto.graph.node if node.op_type == "Gemm"][-1].input[1]
        weight = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
        weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), name))
        return proto

    monkeypatch.setattr("cvrnet.onnx.export.trace", spoiled)
    with pytest.raises(UserError, match=r"differ from PyTorch's by .*nothing was written"):
        export_onnx(plain, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_int8(folds, phantoms, tmp_path, images, cli):
    """The figures that are reported are those of the file, which has no distances, because rounding changes them."""
    file, run = tmp_path / "int8.onnx", shutil.copytree(folds, tmp_path / "run")
    width = sum(load_checkpoint(run / "fold-1").widths)
    head = NoveltyHead(torch.zeros(width), torch.eye(3, width), torch.ones(3), torch.tensor(0.5), torch.arange(9.0))
    save_novelty(run / "fold-1", head)
    report = export_onnx(
        *(run, file),
        folds=[1],
        int8=True,
        calibration=phantoms,
        calibration_images=12,
        min_agreement=0,
        max_accuracy_drop=1,
    )["quantization"]
    assert report["calibration_images"] == 12
    assert 20 <= report["images"] <= 24
    assert file.stat().st_size < (folds / "fold-1" / "model.safetensors").stat().st_size
    proto = onnx.load(file)
    assert proto.ir_version == 8
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    graph = proto.graph
    assert [output.name for output in graph.output] == ["logits", "head_logits"]
    made = {node.output[0]: node for node in graph.node}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    floats = {node.input[1].removeprefix("models.0.") for node in convolutions if node.input[1] not in made}
    assert {"encoders.0.backbone.conv1.0.weight", "encoders.0.backbone.layer2.0.downsample.1.weight"} <= floats
    assert all(made[node.input[1]].op_type == "DequantizeLinear" for node in convolutions if node.input[1] in made)
    assert 0 < len(floats) < len(convolutions) / 2
    model = load_checkpoint(folds / "fold-1")
    _, others = split_calibration(phantoms, 12, 100, CLASSES)
    expected, got = (
        np.array([p.probabilities for p in predictor([r.path for r in others])])
        for predictor in (
            Predictor([model], "cpu", "fp32"),
            Predictor.from_pretrained(file, "cpu", "fp32", backend="onnxruntime"),
        )
    )
    truth = np.array([CLASSES.index(r.label) for r in others])
    assert report["images"] == len(others)
    assert report["top_class"] == pytest.approx((expected.argmax(1) == got.argmax(1)).mean())
    assert report["max_difference"] == pytest.approx(np.abs(expected - got).max(), abs=1e-3)
    assert report["accuracy_before"] == pytest.approx((expected.argmax(1) == truth).mean())
    assert report["accuracy_after"] == pytest.approx((got.argmax(1) == truth).mean())
    stored = {p.key: p.value for p in onnx.load(file).metadata_props}
    assert json.loads(stored["quantization"]) == report


def test_bad_int8_is_refused(plain, phantoms, tmp_path):
    options = {"int8": True, "calibration": phantoms, "calibration_images": 12, "max_accuracy_drop": -1}
    with pytest.raises(
        UserError, match=r"nothing was written: the top class agrees on .* of \d+ images, accuracy goes"
    ):
        export_onnx(plain, tmp_path / "model.onnx", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("top_class", "before", "after", "refused"),
    [(0.98, 0.80, 0.79, False), (0.97, 0.80, 0.80, True), (0.99, 0.80, 0.78, True), (0.99, None, None, False)],
)
def test_what_is_bad(top_class, before, after, refused):
    found = {"images": 100, "top_class": top_class, "accuracy_before": before, "accuracy_after": after}
    with pytest.raises(UserError, match="int8 changes the predictions too much") if refused else nullcontext():
        check_agreement(found, 0.98, 0.0101)


@settings(deadline=None)
@given(patients=st.lists(st.integers(0, 8), min_size=2, max_size=40), count=st.integers(1, 30))
def test_calibration_and_evaluation_share_no_patient(tmp_path_factory, patients, count):
    folder = tmp_path_factory.mktemp("split")
    rows = [f"{i}.png,A,{f'p{patient}' if patient else ''}" for i, patient in enumerate(patients)]
    for i in range(len(patients)):
        (folder / f"{i}.png").touch()
    (folder / "manifest.csv").write_text("\n".join(["path,label,patient_id", *rows]) + "\n")
    calibration, others = split_calibration(folder, count, 10, ["A", "B"])
    assert 0 < len(calibration) <= max(1, min(count, len(patients) // 2))
    assert len(others) <= 10
    ids = {r.patient_id for r in calibration} - {""}
    assert not ids & {r.patient_id for r in others}
    assert not {r.path for r in calibration} & {r.path for r in others}


def _external(file: Path) -> None:
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="weights.bin", size_threshold=0)


def _without_metadata(file: Path) -> None:
    proto = onnx.load(file)
    del proto.metadata_props[:]
    onnx.save(proto, file)


def _metadata(**changes: object) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        proto = onnx.load(file)
        stored = next(p for p in proto.metadata_props if p.key == "pretrained_cfg")
        stored.value = json.dumps({**json.loads(stored.value), **changes})
        onnx.save(proto, file)

    return change


def _unknown_operation(file: Path) -> None:
    proto = onnx.load(file)
    proto.graph.node[0].op_type = "Nonsense"
    onnx.save(proto, file)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda file: file.unlink(), "no such file"),
        (lambda file: file.write_bytes(b""), "is not an ONNX file, or is cut short"),
        (lambda file: file.write_text("hello"), "is not an ONNX file, or is cut short"),
        (lambda file: file.write_bytes(file.read_bytes()[:1000]), "is not an ONNX file, or is cut short"),
        (lambda file: file.write_bytes(file.read_bytes()[:-50000]), "is not an ONNX file, or is cut short"),
        (lambda file: file.write_bytes(file.read_bytes()[:-5]), "is not an ONNX file, or is cut short"),
        (_external, "keeps its weights in other files"),
        (_without_metadata, "its metadata are missing or wrong"),
        (_metadata(label_names=["A", "B"]), "its metadata do not fit its graph"),
        (_metadata(input_size=[3, 32, 32]), "its metadata do not fit its graph"),
        (_metadata(input_size="big"), "its metadata are missing or wrong"),
        (_metadata(interpolation="magic"), "interpolation 'magic' is not known"),
        (_unknown_operation, "cannot load"),
    ],
    ids=[
        *("missing", "empty", "text", "head only", "cut in the weights", "cut at the end", "external data", "not ours"),
        *("other classes", "other size", "bad size", "bad interpolation", "unknown operation"),
    ],
)
def test_bad_files_are_named_in_one_line(exported, images, tmp_path, cli, spoil, told):
    file = tmp_path / "bad.onnx"
    shutil.copy(exported, file)
    spoil(file)
    status, out, err = cli("predict", file, images[0])
    assert (status, out) == (1, "")
    assert told in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


def test_export_by_command(plain, phantoms, images, tmp_path, cli):
    file = tmp_path / "model.onnx"
    status, out, err = cli("export", plain, "-o", file, "--check-images", phantoms)
    assert status == 0, err
    assert "16 images of the given data" in out
    status, out, err = cli("predict", file, *images, "--heads")
    assert (status, out) == (1, "")
    assert "gives no probabilities of heads" in err


@pytest.mark.both_precisions
def test_predict_and_evaluate_take_the_file(folds, exported, phantoms, images, tmp_path, cli, auto_precision):
    # OpenVINO computes every layer in bfloat16: of random weights, probabilities move by more than docs/performance.md
    # promises for PyTorch.
    bound, options = 1e-4 if auto_precision == "fp32" else 0.02, ("--device", "cpu")
    status, out, err = cli("predict", exported, *images, "--heads", "--format", "jsonl", *options)
    assert status == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in images]
    expected = Predictor.from_pretrained(folds, device="cpu", dtype="fp32")(images, heads=True)
    for row, prediction in zip(rows, expected, strict=True):
        np.testing.assert_allclose([row[f"prob_{c}"] for c in CLASSES], prediction.probabilities, atol=bound)
        np.testing.assert_allclose([row[f"head_3_{c}"] for c in CLASSES], prediction.heads[2], atol=5 * bound)
    status, _, err = cli("evaluate", exported, phantoms, "-o", tmp_path / "evaluation", "--no-audit", *options)
    assert status == 0, err
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["test"]["n"] == 36


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "model.pt"], "expected a file name that ends in .onnx"),
        (["-o", "model.onnx", "--folds", "3"], "has no fold 3; expected some of 1, 2"),
        (["-o", "model.onnx", "--folds", "x"], "'x' is not a fold"),
        (["-o", "model.onnx", "--int8"], "--int8 needs images to calibrate on"),
        (["-o", "model.onnx", "--calibration", "x"], "--calibration is only for --int8"),
    ],
)
def test_mistakes_are_named_in_one_line(folds, tmp_path, monkeypatch, cli, arguments, told):
    monkeypatch.chdir(tmp_path)
    status, out, err = cli("export", folds, *arguments)
    assert status in (1, 2)
    assert out == ""
    assert told in err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(folds, tmp_path, cli):
    file = tmp_path / "model.onnx"
    file.write_text("mine")
    status, _, err = cli("export", folds, "-o", file)
    assert status == 1
    assert err == f"Error: {file} exists; --overwrite replaces it\n"
    assert file.read_text() == "mine"


@pytest.mark.parametrize("damage", ["", "{", "{}", '{"architecture": "cvrnet", "pretrained_cfg": {"input_size": [1]}}'])
def test_a_damaged_config_is_told_in_one_line(run, tmp_path, cli, damage):
    damaged = shutil.copytree(run, tmp_path / "damaged")
    (damaged / "config.json").write_text(damage)
    status, _, err = cli("export", damaged, "-o", tmp_path / "model.onnx")
    assert (status, err.count("\n"), err.startswith("Error: "), "config.json" in err) == (1, 1, True, True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"device": "mps"}, "device 'mps' cannot run an ONNX file"),
        ({"engine": "tensorrt"}, "unknown engine 'tensorrt'"),
        ({"engine": "onnxruntime", "dtype": "bf16"}, "not in bf16"),
        ({"engine": "openvino", "device": "cuda"}, "OpenVINO does not run on 'cuda'"),
        pytest.param(
            *({"device": "cuda"}, "device 'cuda' needs a GPU and ONNX Runtime with CUDA"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA"),
        ),
    ],
)
def test_devices_and_formats_that_are_not_there(exported, options, told):
    with pytest.raises(UserError, match=told):
        load_onnx(exported, **options)


def test_calibration_reads_every_image_once():
    from cvrnet.onnx.quantize import TOGETHER, _Reader

    images = [np.full((3, 4, 4), i, np.uint8) for i in range(2 * TOGETHER + 1)]
    reader, read = _Reader(images), []
    while (batch := reader.get_next()) is not None:
        read.append(batch["pixels"])
    assert [len(part) for part in read] == [TOGETHER, TOGETHER, 1]
    np.testing.assert_array_equal(np.concatenate(read), np.stack(images))
