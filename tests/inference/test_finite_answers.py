"""Answers are numbers: a model that gives none is refused by name; an image that overflows is named."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cvrnet.data import Record
from cvrnet.errors import UserError
from cvrnet.explain import explain
from cvrnet.inference import Predictor
from cvrnet.runs.checkpoint import checkpoint_classes, load_checkpoint, save_checkpoint
from cvrnet.training import TrainConfig, create_for_training
from tests.support.networks import network

CLASSES = ["CVP", "NCP", "NOR"]


class Overflows(nn.Module):
    """Its logits are the brightness of each corner, and overflow where the whole image is bright."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 1)
        cfg = {"architecture": "overflows", "input_size": (1, 8, 8), "mean": (0.0,), "std": (1.0,)}
        self.pretrained_cfg = self.default_cfg = cfg | {"interpolation": "nearest", "label_names": ["dark", "light"]}

    def forward_features(self, x: Tensor) -> Tensor:
        return (100 * x).exp() * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)

    def forward_head(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finite") / "run"
    save_checkpoint(network("cvrnet_tiny", img_size=64), folder, CLASSES)
    return folder


@pytest.fixture
def images(tmp_path):
    """Dark, bright, and dark again."""
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, level in zip(paths, (20, 255, 40), strict=True):
        pixels = np.full((8, 8), level, np.uint8)
        pixels[0, 0] -= 10
        Image.fromarray(pixels).save(path)
    return paths


def spoil(folder, copy, name, value):
    """A copy of the checkpoint with one value of the tensors whose names end in `name` replaced."""
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    tensor = next(tensor for key, tensor in weights.items() if key.endswith(name))
    tensor.view(-1)[0] = value
    save_file(weights, copy / "model.safetensors")
    return copy


@pytest.mark.parametrize("name", ["conv1.0.weight", "running_mean", "running_var", "classifier.bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_that_is_not_finite_is_refused_by_name(folder, tmp_path, name, value):
    spoiled = spoil(folder, tmp_path / "spoiled", name, value)
    message = rf"^{spoiled} holds a checkpoint that cannot be loaded: \S*{name} in model.safetensors holds NaN or inf"
    with pytest.raises(UserError, match=message):
        Predictor.from_pretrained(spoiled)
    with pytest.raises(UserError, match="holds NaN or infinity"):
        create_for_training(TrainConfig(model=f"local-dir:{spoiled}", img_size=64, pretrained=False), 3)


def test_a_variance_below_zero_gives_no_answer(folder, tmp_path, images):
    """Its square root is NaN, although every weight is finite."""
    spoiled = spoil(folder, tmp_path / "spoiled", "running_var", -1.0)
    with pytest.raises(UserError, match=rf"^{spoiled} predicts NaN for every image, even for a uniformly grey image"):
        Predictor.from_pretrained(spoiled, "cpu", "fp32")(images)


@pytest.mark.parametrize("command", ["predict", "evaluate", "explain", "audit", "export", "soup"])
def test_every_command_refuses_it_in_one_line(folder, phantoms, tmp_path, cli, command):
    run = tmp_path / "run"
    for fold, value in (("fold-1", 0.1), ("fold-2", float("nan"))):
        spoil(folder, run / fold, "classifier.bias", value)
    image = next(phantoms.parent.glob("images/*/*.png"))
    arguments = {
        "predict": [run, image, "--format", "json"],
        "evaluate": [run, phantoms, "-o", tmp_path / "out", "--no-audit"],
        "explain": [run, image, "-o", tmp_path / "out"],
        "audit": [phantoms, "-o", tmp_path / "out", "--model", run],
        "export": [run, "-o", tmp_path / "m.onnx"],
        "soup": [run, phantoms, "-o", tmp_path / "out"],
    }[command]
    status, out, err = cli(command, *arguments)
    assert status == 1
    assert "nan" not in out.lower()
    (line,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert f"{run / 'fold-2'} holds a checkpoint that cannot be loaded: " in line
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, True, "0.5"])
def test_a_mean_or_std_that_is_no_number_is_refused(key, value, tmp_path):
    model = Overflows()
    model.pretrained_cfg[key] = (value,)
    with pytest.raises(UserError, match="do not fit 1 channels"):
        Predictor([model], "cpu")
    plain = timm.create_model("test_resnet", num_classes=2)
    plain.pretrained_cfg = {**plain.pretrained_cfg, key: (value,) * 3}
    with pytest.raises(UserError, match="do not fit 3 channels"):
        save_checkpoint(plain, tmp_path / "run", ["a", "b"])
    assert not (tmp_path / "run").exists(), "a config.json with NaN is no JSON"


def test_one_image_overflows_and_the_others_are_answered(images):
    predictor = Predictor([Overflows()], "cpu", "fp32")
    first, second, third = predictor.stream(images, batch_size=3)
    assert second.error == f"{images[1]}: the prediction of overflows is not a number (overflow in fp32)"
    assert second.label == ""
    assert (first.error, third.error) == ("", "")
    assert np.isfinite([first.probabilities, third.probabilities]).all()
    with pytest.raises(UserError, match=r"1\.png: the prediction of overflows is not a number"):
        predictor(images)
    explained = list(explain(predictor, images))
    assert [bool(e.error) for e in explained] == [False, True, False]
    assert explained[1].error == second.error
    assert set(explained[0].grids) == {"network"}


def test_an_evaluation_leaves_the_image_out_and_names_it(images):
    from cvrnet.workflows.evaluate import predict_records

    records = [Record(path, path.name, label) for path, label in zip(images, ("dark", "light", "dark"), strict=True)]
    table = predict_records(Predictor([Overflows()], "cpu", "fp32"), records)
    assert table.names == ["0.png", "2.png"]
    assert [problem.split(": ")[0] for problem in table.problems] == [str(images[1])]


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_model_in_memory_that_answers_nothing_is_refused(weight, images):
    model = timm.create_model("test_resnet", num_classes=2)
    model.fc.weight.data[0, 0] = weight
    predictor = Predictor([model], "cpu", "fp32")
    for answer in (lambda: predictor(images), lambda: list(explain(predictor, images))):
        with pytest.raises(
            UserError, match=r"^test_resnet predicts NaN for every image, even for a uniformly grey image: "
        ):
            answer()


def test_json_has_no_nan(capsys):
    from cvrnet_cli.output import print_rows

    row = {"a": float("nan"), "b": float("inf"), "c": 0.5, "d": None, "e": "nan"}
    for style in ("json", "jsonl"):
        print_rows([row], style=style)
        out = capsys.readouterr().out
        found = json.loads(out, parse_constant=lambda name: pytest.fail(f"bare {name}"))
        expected = {**row, "a": None, "b": None}
        assert found == ([expected] if style == "json" else expected)


def test_names_only_where_their_number_fits(folder, images):
    """A model of another number of classes answers for another task; the names are those of timm's cfg otherwise."""
    two = load_checkpoint(folder, num_classes=2)
    assert checkpoint_classes(two) == ["class_0", "class_1"]
    assert {p.label for p in Predictor([two], "cpu")(images)} <= {"class_0", "class_1"}
    assert Predictor([timm.create_model("test_resnet", num_classes=5)], "cpu").classes == [
        f"class_{i}" for i in range(5)
    ]
    assert Predictor([load_checkpoint(folder)], "cpu").classes == CLASSES
    for number, classes in ((0, "0 classes"), (1, "1 class")):
        with pytest.raises(UserError, match=f"test_resnet has {classes}; expected at least 2"):
            Predictor([timm.create_model("test_resnet", num_classes=number)], "cpu")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({0: "CVP", 1: "NCP", 2: "NOR"}, CLASSES),
        ({"2": "NOR", "0": "CVP", "1": "NCP"}, CLASSES),
        ({"0": "CVP", "2": "NOR"}, ["CVP", "class_1", "NOR"]),
        ({"0": "CVP", "3": "NOR"}, ["class_0", "class_1", "class_2"]),
        (("CVP", "NCP", "NOR"), CLASSES),
        (["CVP", "CVP", "NOR"], ["class_0", "class_1", "class_2"]),
        (None, ["class_0", "class_1", "class_2"]),
    ],
    ids=str,
)
def test_names_by_number_as_timm_documents_them(names, expected):
    """timm.data.CustomDatasetInfo: a list, or a dictionary with whole numbers or, as in JSON, texts of them."""
    model = timm.create_model("test_resnet", num_classes=3)
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": names}
    assert checkpoint_classes(model) == expected
    if names and expected == CLASSES:
        listed = timm.data.CustomDatasetInfo(names)
        assert [listed.index_to_label_name(i) for i in range(3)] == expected


def test_a_model_that_answers_other_numbers_than_it_names_is_refused(images):
    class Wide(Overflows):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 3)

    with pytest.raises(
        UserError, match=r"overflows returns logits of shape \(3, 3\) for 3 images; expected a logit for"
    ):
        Predictor([Wide()], "cpu", "fp32")(images)


def test_a_model_that_cannot_take_its_images_is_named(images):
    model = timm.create_model("test_resnet", num_classes=2, in_chans=1)  # its cfg states three channels
    with pytest.raises(UserError, match=r"^test_resnet cannot predict images of size \(3, 160, 160\): [^\n]+$"):
        Predictor([model], "cpu", "fp32")(images)
