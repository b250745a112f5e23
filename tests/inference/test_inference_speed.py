"""What makes prediction fast changes no answer: folding, number formats, compilation, one pass for everything."""

import copy
import csv
import shutil

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from torch import nn

from cvrnet.data import Preprocessing, read_image, to_batch
from cvrnet.encoders.fuse_batch_norm import fuse_batch_norm
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.inference.head_logits import HeadLogits, cast_weights
from cvrnet.inference.uncertainty import entropy, mutual_information
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from tests.support.networks import enliven, images, network

CLASSES = ["CVP", "NCP", "NOR"]


def norms(model):
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize(
    ("encoders", "left"),
    [
        (("test_resnet", "test_byobnet"), 0),
        (("legacy_xception",), 0),  # separable convolutions
        (("keras_xception",), 0),
        (("test_efficientnet",), 0),  # batch norm with the activation inside
        (("densenet121",), 62),  # 59 of its 121 follow a convolution alone
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else str(value),
)
def test_folding_changes_no_answer(encoders, left):
    model = network("cvrnet", encoders=encoders, num_classes=3)
    x = images(2, (64, 64))
    with torch.no_grad():
        before, heads = model(x), model.branch_logits(x)
        assert norms(model) > left
        assert fuse_batch_norm(model) is model
        assert norms(model) == left
        torch.testing.assert_close(model(x).softmax(-1), before.softmax(-1), atol=1e-5, rtol=0)
        for ours, theirs in zip(model.branch_logits(x), heads, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_byobnet", "test_vit", "test_convnext", "repvgg_a0", "regnety_002"]
)
def test_folding_plain_timm_models(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    enliven(model)
    size = timm.data.resolve_model_data_config(model)["input_size"][1:]
    with torch.no_grad():
        before = model(images(2, size))
        fuse_batch_norm(model)
        torch.testing.assert_close(model(images(2, size)).softmax(-1), before.softmax(-1), atol=1e-5, rtol=0)


class Odd(nn.Module):
    """Two branches that must stay as they are, one that can be folded, and optionally what cannot be traced."""

    def __init__(self, untraceable=False):
        super().__init__()
        self.twice, self.norm_twice = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.shown, self.norm_shown = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.plain, self.norm_plain = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.bare, self.norm_bare = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)
        self.untraceable = untraceable

    def forward(self, x):
        if self.untraceable and x.sum() > 0:
            x = x + 1
        a = self.norm_twice(self.twice(x)) + self.twice(x * 2)
        shown = self.shown(x)
        return a + shown + self.norm_shown(shown) + self.norm_plain(self.plain(x)) + self.norm_bare(self.bare(x))


def odd(**options):
    torch.manual_seed(0)
    model = Odd(**options)
    for norm in (model.norm_twice, model.norm_shown, model.norm_plain):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.weight)
    return model.eval()


def test_only_what_follows_one_convolution_is_folded():
    model, x = odd(), torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        before = model(x)
        fuse_batch_norm(model)
        assert isinstance(model.norm_plain, nn.Identity)
        assert norms(model) == 3
        torch.testing.assert_close(model(x), before)


def test_what_cannot_be_folded_stays_as_it_is(caplog):
    model = odd(untraceable=True)
    before = copy.deepcopy(model.state_dict())
    with caplog.at_level("INFO", "cvrnet"):
        fuse_batch_norm(model)
    assert "batch norm is not folded, because the network cannot be traced" in caplog.text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    training = odd().train()
    fuse_batch_norm(training)
    assert norms(training) == 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    model = network("cvrnet_tiny", num_classes=3)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 64)}
    save_checkpoint(model, folder, CLASSES)
    return folder


@pytest.fixture(scope="module")
def folds(tiny, tmp_path_factory):
    """A run of three folds that answer differently."""
    folder = tmp_path_factory.mktemp("folds")
    for fold in (1, 2, 3):
        model = load_checkpoint(tiny)
        torch.manual_seed(fold)
        for block in model.head.blocks:
            nn.init.normal_(block.classifier.weight)
        save_checkpoint(model, folder / f"fold-{fold}", CLASSES)
    return folder


@pytest.fixture
def paths(phantoms):
    return sorted(phantoms.parent.glob("images/*/*.png"))[:7]


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_loaded_predictor_is_folded_and_can_be_differentiated(tiny):
    predictor = Predictor.from_pretrained(tiny, device="cpu", dtype="bf16")
    (model,) = predictor.models
    assert norms(model) == 0
    assert norms(Predictor([load_checkpoint(tiny)], device="cpu").models[0]) > 0  # models given are used as they are
    predictor.probabilities(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    x = torch.randn(1, 3, 64, 64)
    maps = model.forward_maps(x)
    gradient = torch.autograd.grad(sum(model.head.branch_logits(model.pool_maps(maps))).sum(), maps[0])[0]
    assert gradient.abs().sum() > 0
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_bfloat16_is_autocasts_with_weights_cast_once(tiny, pixels):
    model = load_checkpoint(tiny)
    for encoder in model.encoders:
        encoder.float32_parts = ()
    twin = cast_weights(model, torch.bfloat16)
    encoders = {p.dtype for m in twin.encoders.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()}
    assert encoders == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert twin.head.blocks[0].classifier.weight is model.head.blocks[0].classifier.weight  # not copied
    x = Preprocessing.from_model(model).normalize(pixels)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for ours, theirs in zip(twin.forward_maps(x), model.forward_maps(x), strict=True):
            assert torch.equal(ours, theirs)
    plain = timm.create_model("test_vit", num_classes=3).eval()
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            expected = plain(x).float()
        torch.testing.assert_close(HeadLogits(plain, "bf16")(x)[0][0], expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("name", "exact", "rough"),
    [
        ("legacy_xception", ("stem", "entry", "block3.skip", "block3.body.1.conv1"), "block3.body.1.pointwise"),
        ("resnet18", ("backbone.conv1", "backbone.layer2.0.downsample"), "backbone.layer2.0.conv1"),
    ],
)
def test_what_rounds_worst_stays_in_float32(pixels, name, exact, rough):
    model = network("cvrnet", encoders=(name,), num_classes=3).eval()
    encoder, twin = model.encoders[0], cast_weights(model, torch.bfloat16).encoders[0]
    for part in exact:
        assert {p.dtype for p in twin.get_submodule(part).parameters()} == {torch.float32}
    assert twin.get_submodule(rough).weight.dtype == torch.bfloat16
    x = Preprocessing.from_model(model).normalize(pixels[:2])
    with torch.no_grad():
        right = encoder(x)
        with torch.autocast("cpu", torch.bfloat16):
            ours, autocasts = twin(x), encoder(x)
        assert torch.equal(encoder(x)[-1], right[-1])  # the model itself is as it was
    for mine, plain, true in zip(ours, autocasts, right, strict=True):
        assert 0 < (mine.float() - true).abs().mean() < (plain.float() - true).abs().mean()


@pytest.mark.realdata
@pytest.mark.both_precisions
def test_number_formats_agree_on_real_radiographs(cxr, tmp_path):
    """The default's probabilities are within 5e-3 of float32's, and the most probable class is the same.

    As docs/performance.md measured it on a trained network. Random features hardly differ between radiographs: batch
    norm enlarges the difference, and the rounding with it, so the heads keep the small weights of their initialisation.
    """
    torch.manual_seed(0)
    model = timm.create_model("cvrnet", encoders=("test_resnet", "test_efficientnet"), num_classes=3)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 64)}
    with (cxr / "manifest.csv").open(encoding="utf-8", newline="") as file:
        files = [cxr / row["path"] for row in csv.DictReader(file)][::60]
    preprocessing = Preprocessing.from_model(model)
    pixels = [preprocessing.resize(read_image(path, preprocessing.mode)) for path in files]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # exactly the statistics of these images
    with torch.no_grad():
        model.train()(preprocessing.normalize(to_batch(pixels)))
    save_checkpoint(model, tmp_path, CLASSES)
    exact, default = (Predictor.from_pretrained(tmp_path, dtype=dtype)(files) for dtype in ("fp32", "auto"))
    np.testing.assert_allclose([p.probabilities for p in default], [p.probabilities for p in exact], atol=5e-3)
    assert [p.label for p in default] == [p.label for p in exact]


def test_one_pass_of_each_model_answers_everything(folds, paths, monkeypatch):
    """Average, heads and uncertainty; images are read and resized once for all folds."""
    predictor = Predictor.from_pretrained(folds, device="cpu", dtype="fp32")
    passes, reads, resized = [], [], []
    forward, read, resize = HeadLogits.forward, Preprocessing.read, Preprocessing.resize
    monkeypatch.setattr(HeadLogits, "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    monkeypatch.setattr(Preprocessing, "read", lambda self, *a: reads.append(a[0]) or read(self, *a))
    monkeypatch.setattr(Preprocessing, "resize", lambda self, image: resized.append(1) or resize(self, image))
    answers = predictor(paths, batch_size=4, heads=True)
    assert passes == [4, 4, 4, 3, 3, 3]
    assert (sorted(reads), len(resized)) == (paths, len(paths))
    for p in answers:
        np.testing.assert_allclose(p.heads.mean(0), p.probabilities, atol=1e-12)
        assert p.predictive_entropy == pytest.approx(stats.entropy(p.probabilities))
        assert 0 <= p.mutual_information <= p.predictive_entropy
    members = predictor.member_probabilities(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert members.shape == (3, 5, 2, 3)


def test_folds_are_chosen_by_number(tiny, folds, paths):
    one, two, three = (Predictor.from_pretrained(folds / f"fold-{k}")(paths) for k in (1, 2, 3))
    chosen = Predictor.from_pretrained(folds, folds=[1, 3])(paths)
    expected = [(a.probabilities + b.probabilities) / 2 for a, b in zip(one, three, strict=True)]
    np.testing.assert_allclose([p.probabilities for p in chosen], expected, atol=1e-6)
    assert not np.allclose(expected, [p.probabilities for p in two])
    with pytest.raises(UserError, match="has no fold 4; expected some of 1, 2, 3"):
        Predictor.from_pretrained(folds, folds=[1, 4])
    with pytest.raises(UserError, match="the folder holds a single model, so leave the fold out"):
        Predictor.from_pretrained(tiny, folds=[1])


def distributions(members=3, images=2, classes=4):
    logits = arrays(np.float64, (members, images, classes), elements=st.floats(-30, 30))
    return logits.map(lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True))


@given(distributions())
def test_uncertainty_is_scipys(members):
    np.testing.assert_allclose(entropy(members), stats.entropy(members, axis=-1), atol=1e-9)
    mean = members.mean(0)
    np.testing.assert_allclose(entropy(members.mean(0)), stats.entropy(mean, axis=-1), atol=1e-9)
    # The mutual information is the members' mean Kullback-Leibler divergence from their mean.
    divergence = np.mean([stats.entropy(m, mean, axis=-1) for m in members], axis=0)
    np.testing.assert_allclose(mutual_information(members), divergence, atol=1e-9)


def test_uncertainty_of_one_member_is_no_disagreement(paths, tmp_path):
    save_checkpoint(timm.create_model("test_resnet", num_classes=3), tmp_path, CLASSES)
    (answer,) = Predictor.from_pretrained(tmp_path)(paths[:1])
    assert answer.mutual_information == pytest.approx(0, abs=1e-12)
    assert answer.predictive_entropy == pytest.approx(stats.entropy(answer.probabilities))


def test_compiled_networks_see_one_batch_size(tiny, paths, monkeypatch):
    """A smaller last batch is filled up instead of compiled anew, and its answers are cut off again."""
    seen, asked = [], []

    def compile_(module, **options):
        asked.append(options)
        return lambda x: seen.append(len(x)) or module(x)

    monkeypatch.setattr(torch, "compile", compile_)
    expected = Predictor.from_pretrained(tiny, dtype="fp32")(paths)
    predictor = Predictor.from_pretrained(tiny, device="cpu", dtype="fp32", compile=True)
    answers = predictor(paths, batch_size=4)
    assert seen == [4, 4]
    assert asked == [{"dynamic": False, "options": {"freezing": True}}]
    np.testing.assert_allclose([p.probabilities for p in answers], [p.probabilities for p in expected], atol=1e-6)
    Predictor.from_pretrained(tiny, device="cpu", compile="reduce-overhead")(paths[:1])
    assert asked[-1] == {"dynamic": False, "mode": "reduce-overhead"}


def test_a_compiler_that_fails_is_one_line(tiny, paths, monkeypatch):
    def compile_(module, **options):
        def fail(x):
            raise RuntimeError("no working C++ compiler found\nat /usr/bin")

        return fail

    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(UserError, match=r"torch.compile failed \(no working C\+\+ compiler found\)"):
        Predictor.from_pretrained(tiny, device="cpu", compile=True)(paths[:1])


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_torch_compile_gives_the_same_answers(paths):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    small = timm.create_model("test_resnet").pretrained_cfg
    model.pretrained_cfg = {**small, "input_size": (3, 32, 32), "label_names": CLASSES}
    plain = Predictor([copy.deepcopy(model)], device="cpu", dtype="fp32")(paths)
    ours = Predictor([model], device="cpu", dtype="fp32", compile=True)(paths, batch_size=4)
    np.testing.assert_allclose([p.probabilities for p in ours], [p.probabilities for p in plain], atol=1e-5)
    assert np.ptp([p.probabilities for p in plain], axis=0).max() > 1e-4


def test_predict_command(tiny, paths, cli):
    status, out, err = cli("predict", tiny, *paths[:2], "--uncertainty", "--format", "csv", "--amp", "fp32")
    assert status == 0, err
    rows = list(csv.DictReader(out.splitlines()))
    assert list(rows[0])[-3:] == ["predictive_entropy", "mutual_information", "error"]
    for row in rows:
        p = [float(row[f"prob_{name}"]) for name in CLASSES]
        assert float(row["predictive_entropy"]) == pytest.approx(stats.entropy(p))
    status, _, err = cli("predict", tiny, paths[0], "--folds", "one")
    assert (status, "'one' is not a fold; expected numbers such as 1,3" in err) == (2, True)
    status, _, err = cli("predict", tiny, paths[0], "--folds", "2")
    assert (status, "the folder holds a single model, so leave the fold out" in err) == (1, True)
