"""A config.json from anywhere: refused at once, in one line, before memory is taken; by every command."""

import json
import time

import pytest
import timm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvrnet.encoders.network_size import MAX_PARAMETERS
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from cvrnet.strict_json import parse_json
from cvrnet.training import TrainConfig, create_for_training
from tests.support.networks import network


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config") / "run"
    save_checkpoint(network("cvrnet_tiny", img_size=64), folder, ["CVP", "NCP", "NOR"])
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A checkpoint whose config.json may be replaced; its weights are the original's."""
    (tmp_path / "config.json").write_bytes((original / "config.json").read_bytes())
    (tmp_path / "model.safetensors").symlink_to(original / "model.safetensors")
    return tmp_path


def rewrite(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def other(architecture, **arguments):
    return lambda config: config.update(architecture=architecture, model_args=arguments)


def argument(**values):
    return lambda config: config["model_args"].update(values)


def image(**values):
    return lambda config: config["pretrained_cfg"].update(values)


def refusal(folder, call=load_checkpoint):
    """The one line of the refusal, which comes in seconds however large the network would be."""
    started = time.process_time()
    with pytest.raises(UserError) as error:
        call(folder)
    assert time.process_time() - started < 20, "not at once"
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other("vit_base_patch16_224", depth=65536, embed_dim=6144), "more than 2,000,000,000 parameters"),
        (other("vit_base_patch16_224", depth=65536, embed_dim=1, num_heads=1), "more than 30,000 modules and tensors"),
        (other("swin_tiny_patch4_window7_224", img_size=65536, window_size=65536), "2,000,000,000 parameters"),
        (other("maxvit_tiny_tf_224", img_size=8192), "more than 200,000 calls of PyTorch's functions"),
        (argument(encoders=["convnext_xxlarge"] * 8), "more than 2,000,000,000 parameters"),
        (argument(encoders=["resnet18"] * 9), "asks for 9 encoders; expected at most 8"),
        (argument(hidden_sizes=[65536, 65536]), "more than 2,000,000,000 parameters"),
        (argument(hidden_sizes=[1] * 65), "a list or object of 65 items"),
        (argument(hidden_sizes=[-(10**6)]), "has the number -1e+06"),
        (argument(hidden_sizes=[512.5]), "float"),
        (argument(encoders=[[[[[[[[[["resnet18"]]]]]]]]]]), "expected at most 64 items and 8 levels"),
        (argument(img_size=8192), "input size (3, 8192, 8192) is not possible"),
        (argument(img_size=True), "is not possible"),
        (argument(in_chans=True), "has in_chans=True; expected a whole number"),
        (argument(pretrained_cfg_overlay={"url": "x"}), "'pretrained_cfg_overlay' among the model's arguments"),
        (argument(device="cuda"), "'device' among the model's arguments"),
        (image(input_size=[3, 8192, 8192]), "at most 4,194,304 pixels"),
        (image(input_size=[3, 64.0, 64.0]), "input size (3, 64.0, 64.0) is not possible"),
        (image(input_size=[3, True, 64]), "is not possible"),
        (image(input_size={"a": 3}), "is not possible"),
        (image(interpolation=["nearest"]), "interpolation ['nearest'] is not known"),
        (image(interpolation={}), "interpolation {} is not known"),
        (image(mean=0.5), "do not fit 3 channels"),
        (image(mean=[0.5]), "do not fit 3 channels"),
        (image(mean=[[0.5], [0.5], [0.5]]), "do not fit 3 channels"),
        (image(std=[1e-300] * 3), "do not fit 3 channels"),
        (image(std=[False, 1, 1]), "do not fit 3 channels"),
        (lambda config: config.update(num_classes=True), "has num_classes=True; expected a whole number"),
        (lambda config: config.update(num_classes=3.0), "has num_classes=3.0; expected a whole number"),
        (lambda config: config.update(num_classes="3"), "has num_classes='3'; expected a whole number"),
        (lambda config: config.update(label_names=["A", "A", "B"]), "several classes have the same name"),
        (lambda config: config.update(label_names=["A", "\x1b[31mB", "C"]), r"invalid character: '\x1b[31mB'"),
        (lambda config: config.update(label_names=[1, 2, 3]), "label_names=[1, 2, 3]; expected a list of texts"),
        (
            lambda config: config.update(label_names={"zero": "A"}),
            "label_names={'zero': 'A'}; expected a list of texts",
        ),
        (lambda config: config.update(label_names={"0": "A", "3": "B"}), "do not fit a model with 3 classes"),
        (lambda config: config.update(architecture=["resnet18"]), "names no architecture"),
        (lambda config: config.update(pretrained_cfg=[]), "does not describe a model"),
        (lambda config: config.update(model_args=[]), "does not describe a model"),
    ],
)
def test_what_no_network_has_is_refused_at_once(folder, change, told):
    rewrite(folder, change)
    line = refusal(folder)
    assert told in line
    assert line.startswith(f"{folder} holds a checkpoint that cannot be loaded: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a":' * 100_000, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"architecture": "a", "architecture": "b"}', "gives 'architecture' twice"),
        ('{"num_classes": ' + "9" * 5000 + "}", "a number of 5,000 digits"),
        ('{"num_classes": -' + "9" * 900_000 + "}", "digits; expected at most 40"),
        ('{"mean": NaN}', "holds NaN"),
        ('{"mean": -Infinity}', "holds -Infinity"),
        ('{"mean": 1e999}', "holds the number 1e999"),
        (" " * 2**20 + "{}", "bytes; expected at most 1,048,576"),
        ("[]", "names no architecture"),
        ("null", "names no architecture"),
        ("", "cannot be read"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_is_no_json_of_a_model_is_refused(folder, text, told):
    (folder / "config.json").write_text(text)
    assert told in refusal(folder)


def test_every_door_refuses_it(folder, phantoms, cli, tmp_path):
    rewrite(folder, argument(hidden_sizes=[65536, 65536]))
    told = "the network has more than 2,000,000,000 parameters; set CVRNET_MAX_PARAMETERS to allow more"
    config = TrainConfig(model=f"local-dir:{folder}", img_size=64, pretrained=False)
    assert told in refusal(folder, Predictor.from_pretrained)
    assert refusal(config, lambda config: create_for_training(config, 3)).startswith(
        f"cannot load local-dir:{folder}: "
    )
    status, out, err = cli("predict", folder, next(phantoms.parent.glob("images/*/*.png")))
    assert (status, out) == (1, "")
    assert err == f"Error: {folder} holds a checkpoint that cannot be loaded: {told}\n"


def test_the_limit_can_be_set(folder, monkeypatch):
    monkeypatch.setenv(MAX_PARAMETERS, "1000")
    assert "more than 1,000 parameters" in refusal(folder)
    monkeypatch.setenv(MAX_PARAMETERS, "2e9")
    assert f"{MAX_PARAMETERS}='2e9'; expected a whole number" in refusal(folder)
    monkeypatch.setenv(MAX_PARAMETERS, "2000000")
    assert 10**6 < sum(p.numel() for p in load_checkpoint(folder).parameters()) < 2000000


def test_networks_of_timm_are_far_from_the_limits():
    """timm's network of most parts; and of the encoders that a chest radiograph may meet, one of the largest."""
    from cvrnet.encoders.network_size import limited_size

    with limited_size():
        for name in ("resnetrs420", "convnext_xxlarge"):
            timm.create_model(name, device="meta")


def test_names_by_number_are_read(folder):
    rewrite(folder, lambda config: config.update(label_names={"2": "NOR", "0": "CVP", "1": "NCP"}))
    assert Predictor.from_pretrained(folder).classes == ["CVP", "NCP", "NOR"]


def test_names_by_number_are_saved(tmp_path):
    save_checkpoint(network("cvrnet_tiny"), tmp_path, {1: "NCP", 0: "CVP", 2: "NOR"})
    assert json.loads((tmp_path / "config.json").read_text())["label_names"] == ["CVP", "NCP", "NOR"]
    with pytest.raises(ValueError, match="several classes"):
        save_checkpoint(network("cvrnet_tiny"), tmp_path / "twice", ["A", "A", "B"])


def test_a_model_for_prediction_alone_is_not_saved(folder, tmp_path):
    """Its batch norm is folded into the convolutions: saved, it could not be loaded again."""
    predictor = Predictor.from_pretrained(folder)
    with pytest.raises(UserError, match="its batch norm is folded into the convolutions"):
        save_checkpoint(predictor.models[0], tmp_path / "again", predictor.classes)
    assert not (tmp_path / "again").exists()
    save_checkpoint(Predictor([load_checkpoint(folder)]).models[0], tmp_path / "again", predictor.classes)
    load_checkpoint(tmp_path / "again")


def test_a_model_that_is_not_finite_is_not_saved(tmp_path):
    model = network("cvrnet_tiny")
    model.encoders[0].backbone.bn1.running_var[0] = float("inf")
    with pytest.raises(UserError, match=r"cannot be saved: encoders\.0\.backbone\.bn1\.running_var holds NaN or inf"):
        save_checkpoint(model, tmp_path / "run", ["A", "B", "C"])
    assert not (tmp_path / "run").exists()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values, st.sampled_from(["", "pretrained_cfg", "model_args"]), st.data())
def test_any_value_anywhere_loads_or_is_one_line(folder, original, value, part, data):
    config = json.loads((original / "config.json").read_text())
    place = config[part] if part else config
    place[data.draw(st.sampled_from(sorted(place)))] = value
    (folder / "config.json").write_text(json.dumps(config))
    line = ""
    try:
        Predictor.from_pretrained(folder, "cpu", "fp32")
    except UserError as error:
        line = str(error)
    assert "\n" not in line


@given(values)
def test_strict_json_is_read_as_python_reads_it(value):
    """Where Python's own reader, told to refuse NaN, reads it."""
    text = json.dumps(value)
    try:
        expected = json.loads(text, parse_constant=lambda name: 1 / 0)
    except ZeroDivisionError:
        with pytest.raises(ValueError, match="which JSON does not allow"):
            parse_json(text)
        return
    if all(abs(number) < 10**39 for number in _integers(expected)):
        assert parse_json(text) == expected


def _integers(value):
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _integers(item)
    elif isinstance(value, int):
        yield value
