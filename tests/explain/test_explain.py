"""Grad-CAM: equal to an independent one and to CAM, right at every edge, and pointing at the lesion."""

import numpy as np
import pytest
import timm
import torch
from captum.attr import LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from PIL import Image
from torch import nn

from cvrnet.data import Preprocessing, read_image, read_records, write_phantoms
from cvrnet.encoders import register_encoder
from cvrnet.errors import UserError
from cvrnet.explain import (
    available_parts,
    class_evidence,
    combine,
    draw_overlay,
    example_panels,
    explain,
    grad_cam,
    map_parts,
)
from cvrnet.explain.gradcam import refusal
from cvrnet.explain.measure_data import measure, summarise
from cvrnet.explain.measures import ALL, HEADS, localisation, randomise, similarity
from cvrnet.explain.overlay import COLOURS
from cvrnet.explain.pictures import plot_explanation
from cvrnet.inference import Predictor
from cvrnet.metrics.bootstrap import mean_interval
from cvrnet.runs.checkpoint import save_checkpoint
from tests.support.networks import images, network, small

CLASSES = ["CVP", "NCP", "NOR"]
TARGET = torch.tensor([2, 0])


class MeanOfHeads(nn.Module):
    """What is explained, for a program that wants a function of the image."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return torch.stack(self.model.branch_logits(x)).mean(0)


def lively_timm(name="test_resnet", **options):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **options).eval()
    nn.init.normal_(model.get_classifier().weight, std=1.0)
    return model


def test_equals_captums_on_plain_timm():
    model, x = lively_timm(), images()
    expected = LayerGradCam(model, model.layer4).attribute(x, TARGET, relu_attributions=True)[:, 0]
    ours = combine(class_evidence(model, x, TARGET))
    cells = ours.shape[1] * ours.shape[2]
    torch.testing.assert_close(ours / cells, expected.detach())
    assert ours.amax((1, 2)).min() > 0


def test_each_encoders_map_equals_captums():
    """captum differentiates the whole graph with hooks: what is deeper than a deepest map is its head alone."""
    model, x = small(), images()
    evidence, parts = class_evidence(model, x, TARGET), map_parts(model)
    layers = {"test_resnet": model.encoders[0].backbone.layer4}
    for name, layer in layers.items():
        expected = LayerGradCam(MeanOfHeads(model), layer).attribute(x, TARGET)[:, 0]
        ours = evidence[parts[name][0]]
        torch.testing.assert_close(ours / ours[0].numel(), expected.detach())


def test_equals_cam_up_to_scale():
    """Selvaraju et al. 2017 section 3.1: with global pooling and one dense layer, Grad-CAM is CAM (Zhou et al.)."""
    model, x = lively_timm("resnet10t"), images(2, (128, 128))
    with torch.no_grad():
        cam = torch.einsum("nchw,nc->nhw", model.forward_features(x), model.get_classifier().weight[TARGET])
    torch.testing.assert_close(class_evidence(model, x, TARGET)[0], cam, rtol=1e-4, atol=1e-4)


def test_swins_grid_is_turned_round():
    model, x = lively_timm("swin_tiny_patch4_window7_224", img_size=64, window_size=2), images(2, (64, 64))
    features = model.forward_features(x)
    (evidence,) = class_evidence(model, x, TARGET)
    assert evidence.shape == features.shape[:3]


def test_the_mean_of_the_evidence_is_the_first_order_effect_of_a_map():
    model, x = small(), images()
    evidence, maps = class_evidence(model, x, TARGET), model.forward_maps(x)
    for i, e in enumerate(evidence):
        step = [m * (1 + (0.001 if j == i else 0)) for j, m in enumerate(maps)]
        scores = [torch.stack(model.head.branch_logits(model.pool_maps(m))).mean(0).double() for m in (step, maps)]
        change = (scores[0] - scores[1]).gather(1, TARGET[:, None])[:, 0] / 0.001
        torch.testing.assert_close(change.float(), e.mean((1, 2)), rtol=0.05, atol=0.02)


def test_parts_are_the_papers():
    assert map_parts(network("cvrnet_tiny", num_classes=2)) == {
        "network": [0, 1, 2, 3, 4, 5], "test_resnet": [2], "test_byobnet": [5],
        "P1": [0], "P2": [1], "P3": [2, 5], "P4": [3], "P5": [4],
    }  # fmt: skip
    twins = map_parts(small(("test_resnet", "test_resnet")))
    assert {"test_resnet", "test_resnet (2)"} < set(twins)
    only = small(scales="deepest")
    assert map_parts(only)["network"] == [2, 5]
    assert class_evidence(only, images(), TARGET)[0].abs().max() == 0, "no head sees it"


@pytest.mark.parametrize("encoders", [("test_resnet",), ("test_convnext", "test_byobnet", "test_efficientnet")])
def test_any_encoders_and_sizes(encoders):
    model, x = small(encoders), images(2, (72, 104))
    cams = grad_cam([model], x, TARGET, list(map_parts(model)))
    for cam in cams.values():
        peaks = cam.amax((1, 2))
        assert ((peaks == 0) | (peaks == 1)).all()
        assert cam.min() >= 0
    assert cams["network"].shape[1:] == cams["P1"].shape[1:], "the finest grid"


@settings(deadline=None, max_examples=10)
@given(constant=st.floats(-100, 100), height=st.integers(40, 120), width=st.integers(40, 120))
def test_a_constant_added_to_all_logits_changes_nothing(constant, height, width):
    model, x = small(), images(1, (height, width))
    before = grad_cam([model], x, TARGET[:1], ["network", "P3"])
    with torch.no_grad():
        for classifier in model.get_classifier():
            classifier.bias += constant
    after = grad_cam([model], x, TARGET[:1], ["network", "P3"])
    for part in before:
        torch.testing.assert_close(before[part], after[part])
        assert 0 <= before[part].min() <= before[part].max() <= 1


def test_sure_heads_still_have_a_gradient():
    """The logarithm of the mean probability has none left where every head is sure."""
    model, x = small(), images()
    with torch.no_grad():
        for classifier in model.get_classifier():
            classifier.weight *= 1e3
    target = model(x).argmax(1)
    x.requires_grad_()
    model(x).log_softmax(-1).gather(1, target[:, None]).sum().backward()
    assert x.grad.abs().max() < 1e-6
    assert combine(class_evidence(model, x.detach(), target)).amax((1, 2)).min() > 0


def test_no_gradient_reaches_a_parameter():
    model = small()
    with torch.inference_mode():
        class_evidence(model, images(), TARGET)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bf16(how):
    model, x = small(), images()
    exact, cam = class_evidence(model, x, TARGET), grad_cam([model], x, TARGET, ["network"])["network"]
    if how == "weights":
        model, x = model.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        rough = [*class_evidence(model, x, TARGET), grad_cam([model], x, TARGET, ["network"])["network"]]
    for ours, expected in zip(rough, [*exact, cam], strict=True):
        assert ours.dtype == torch.float32
        assert torch.corrcoef(torch.stack([ours.flatten(), expected.flatten()]))[0, 1] > 0.8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vit", "ends in tokens; Grad-CAM needs a network that ends in a feature map"),
        ("test_mambaout", None),
        ("test_nfnet", None),
    ],
)
def test_other_timm_models(name, message):
    model = lively_timm(name)
    x = images(2, model.default_cfg["input_size"][1:])
    if message is None:
        assert class_evidence(model, x, TARGET)[0].ndim == 3
    else:
        with pytest.raises(UserError, match=message):
            class_evidence(model, x, TARGET)


def test_models_without_gradients_or_classifier_are_refused():
    with pytest.raises(UserError, match="no gradients"):
        class_evidence(nn.Identity(), images(), TARGET)
    with pytest.raises(UserError, match="no classifier"):
        class_evidence(timm.create_model("test_resnet", num_classes=0).eval(), images(), TARGET)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lively")
    for fold, seed in enumerate((1, 2), start=1):
        model = network("cvrnet_tiny", num_classes=3)
        model.pretrained_cfg |= {"input_size": (3, 64, 64), "interpolation": "bilinear"}
        model.head.apply(lambda m, s=seed: torch.manual_seed(s) if isinstance(m, nn.Module) else None)
        with torch.no_grad():
            for classifier in model.get_classifier():
                classifier.weight.normal_(std=0.5)
        save_checkpoint(model, folder / f"fold-{fold}", CLASSES)
    return Predictor.from_pretrained(folder, dtype="fp32")


def test_files_of_any_size_one_by_one_or_in_batches(predictor, phantoms, tmp_path):
    paths = sorted(phantoms.parent.glob("images/*/*.png"))[:3]
    Image.fromarray(np.array(Image.open(paths[0]).resize((200, 301)))).save(tmp_path / "tall.png")
    paths = [*paths, tmp_path / "tall.png", tmp_path / "nowhere.png"]
    parts = available_parts(predictor)
    together = list(explain(predictor, paths, parts=parts, batch_size=4))
    alone = [next(explain(predictor, [p], parts=parts)) for p in paths]
    assert [e.path for e in together] == paths
    assert "nowhere.png" in together[-1].error
    predicted = predictor(paths[:4])
    for a, b, p in zip(together[:4], alone, predicted, strict=False):
        assert a.prediction == a.target == p.label
        assert a.probability == pytest.approx(p.probabilities.max())
        for part in a.grids:
            cam = a.map(part)
            assert cam.shape == a.image.shape[:2]
            assert cam.max() == 1
            assert cam.min() >= 0
            np.testing.assert_allclose(cam, b.map(part), atol=1e-3)
    assert together[3].map().shape == (301, 200)


def test_folds_count_alike(predictor, phantoms):
    path = next(phantoms.parent.glob("images/*/*.png"))
    both = next(explain(predictor, [path], target="CVP")).grids["network"]
    each = [next(explain(Predictor([m], dtype="fp32"), [path], target="CVP")).grids for m in predictor.models]
    mean = sum(g["network"] for g in each if "network" in g)
    np.testing.assert_allclose(both, mean / mean.max(), atol=1e-5)


def test_maps_that_show_nothing_are_refused(predictor, phantoms):
    path = next(phantoms.parent.glob("images/*/*.png"))
    models = [small(("test_resnet",))]
    models[0].pretrained_cfg |= {"label_names": CLASSES, "input_size": (3, 64, 64)}
    for classifier in models[0].get_classifier():
        torch.nn.init.zeros_(classifier.weight)
    e = next(explain(Predictor(models, dtype="fp32"), [path], target="CVP"))
    assert "zero everywhere" in e.refused["network"]
    with pytest.raises(UserError, match="zero everywhere"):
        e.map()
    plot_explanation(e, ["network"])  # the sentence instead of a picture
    for classifier in models[0].get_classifier():
        torch.nn.init.constant_(classifier.weight, float("nan"))
    with pytest.raises(UserError, match="predicts NaN for every image"):
        next(explain(Predictor(models, dtype="fp32"), [path], target="CVP"))
    assert "not finite" in refusal(torch.full((7, 7), float("nan")), "CVP"), "the answer is a number, its gradient not"
    models[0] = lively_timm()
    models[0].pretrained_cfg |= {"label_names": CLASSES, "input_size": (3, 32, 32)}
    e = next(explain(Predictor(models, dtype="fp32"), [path], target="CVP"))
    assert "single cell" in e.refused["network"] or "zero" in e.refused["network"]


def test_unknown_class_and_part(predictor, phantoms):
    path = next(phantoms.parent.glob("images/*/*.png"))
    with pytest.raises(UserError, match="class XYZ; expected CVP, NCP, NOR"):
        next(explain(predictor, [path], target="XYZ"))
    with pytest.raises(UserError, match="part P9; expected some of network, test_resnet"):
        next(explain(predictor, [path], parts=["P9"]))


def test_panels_for_a_page(predictor, phantoms, tmp_path):
    path = next(phantoms.parent.glob("images/*/*.png"))
    big = tmp_path / "big.png"
    Image.open(path).resize((600, 400)).save(big)
    small_, wide, missing = example_panels(predictor, [path, big, "no.png"], target=["CVP", "NCP", "NOR"])
    assert small_.dtype == np.uint8
    assert small_.shape == (*read_image(path).shape, 3)
    assert wide.shape == (171, 256, 3)
    assert "no.png" in missing


def test_overlay_colours_what_is_above_the_threshold():
    image = np.full((40, 50), 100, np.uint8)
    cam = np.zeros((40, 50), np.float32)
    cam[10:30, 10:40] = np.linspace(0.5, 1, 30, dtype=np.float32)
    drawn = draw_overlay(image, cam, threshold=0.6)
    assert drawn.shape == (40, 50, 3)
    changed = (drawn != 100).any(-1)
    assert changed[cam >= 0.6].all()
    assert not changed[:8].any()
    np.testing.assert_allclose(drawn[20, 38], (100 + COLOURS[-1]) / 2, atol=15)
    viridis = np.array([colormaps["viridis"](i / 16)[:3] for i in range(17)]) * 255
    np.testing.assert_allclose(COLOURS, viridis, atol=4)
    for bad in (1.5, -0.1):
        with pytest.raises(UserError, match="expected a number from 0 to 1"):
            draw_overlay(image, cam, threshold=bad)
    with pytest.raises(UserError, match="expected equal sizes"):
        draw_overlay(image, cam[1:])


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), threshold=st.floats(0, 1))
def test_measures_have_the_values_of_chance_where_the_map_knows_nothing(seed, threshold):
    rng = np.random.default_rng(seed)
    mask = rng.random((13, 17)) < rng.uniform(0.05, 0.95)
    mask[0, 0] = True
    uniform = localisation(np.ones((13, 17), np.float32), mask, threshold)
    for name in ("energy", "pointing", "iou"):
        assert uniform[name] == pytest.approx(uniform["share"])
    perfect = localisation(mask.astype(np.float32), mask, max(threshold, 0.01))
    assert (perfect["energy"], perfect["pointing"], perfect["iou"]) == (1, 1, 1)
    cam = rng.random((13, 17)).astype(np.float32)
    assert all(0 <= value <= 1 for value in localisation(cam, mask, threshold).values())


def test_mean_interval_resamples_patients():
    values, patients = [0.0] * 10 + [1.0] * 10, ["a"] * 10 + ["b"] * 10
    assert mean_interval(values, patients) == (0.5, [0.0, 1.0])
    assert mean_interval([*values, float("nan")])[0] == 0.5
    assert mean_interval([float("nan")]) == (None, None)
    low, high = mean_interval(np.random.default_rng(0).normal(5, 2, 400))[1]
    assert high - low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15), "the normal approximation"


def test_randomised_networks_are_new_and_repeatable():
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    heads, everything, again = randomise(model, HEADS), randomise(model, ALL), randomise(model, ALL)
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
        if value.ndim > 1:
            assert torch.equal(heads.state_dict()[key], value) == key.startswith("encoders")
            assert not torch.equal(everything.state_dict()[key], value)
            assert torch.equal(everything.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(randomise(model, ALL, seed=1).head.blocks[0].classifier.weight,
                           again.head.blocks[0].classifier.weight)  # fmt: skip
    assert np.isnan(similarity(np.ones((2, 2), np.float32), np.eye(2, dtype=np.float32)))


class PlainEncoder(nn.Module):
    """Five convolutions: learns phantoms in seconds."""

    map_names, reductions, channels = ["stage2", "stage3"], [4, 8], [24, 48]
    first_conv, mean, std = ("stem.0",), (0.5,), (0.25,)

    def __init__(self, pretrained=False, in_chans=1, cache_dir=None, device=None, dtype=None):
        super().__init__()

        def conv(inputs, outputs, stride):
            layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False, device=device, dtype=dtype)
            return nn.Sequential(layer, nn.BatchNorm2d(outputs, device=device, dtype=dtype), nn.ReLU())

        self.stem = conv(in_chans, 12, 2)
        self.stage2 = nn.Sequential(conv(12, 24, 2), conv(24, 24, 1))
        self.stage3 = nn.Sequential(conv(24, 48, 2), conv(48, 48, 1))

    def forward(self, x):
        first = self.stage2(self.stem(x))
        return [first, self.stage3(first)]


@pytest.mark.slow
def test_a_trained_network_points_at_the_lesion(tmp_path):
    """NOR against NCP (one focal consolidation, about 3 % of the image), on patients it was not trained on."""
    register_encoder("plain_for_test", PlainEncoder)
    labels, epochs, batch = ["NOR", "NCP"], 14, 16
    records = [r for r in read_records(write_phantoms(tmp_path / "p", 240, seed=3, size=64)) if r.label in labels]
    torch.manual_seed(0)
    grey = {"in_chans": 1, "mean": (0.5,), "std": (0.25,)}
    model = timm.create_model("cvrnet", encoders=["plain_for_test"] * 2, num_classes=2, hidden_sizes=(64, 32), **grey)
    model.pretrained_cfg |= {"input_size": (1, 64, 64), "interpolation": "bilinear", "label_names": labels}
    model.pretrained_cfg |= {"mean": (0.5,), "std": (0.25,)}
    steps = Preprocessing.from_model(model)
    pixels = np.stack([steps.resize(read_image(r.path)) for r in records]).transpose(0, 3, 1, 2)
    x, y = steps.normalize(torch.from_numpy(pixels)), torch.tensor([labels.index(r.label) for r in records])
    n = int(0.7 * len(records))
    patients = {r.patient_id for r in records[:n]}
    held_out = [r for r in records[n:] if r.lesion_mask and r.patient_id not in patients]
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, fused=True)
    total = epochs * -(-n // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=total)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(n).split(batch):
            flipped = x[part].flip(3) if torch.rand(()) < 0.5 else x[part]
            nn.functional.cross_entropy(model(flipped), y[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    summary = summarise(measure(Predictor([model], dtype="fp32"), held_out, target="NCP"))
    rows = {(r["part"], r["mask"], r["measure"]): r for r in summary["localisation"]}
    energy = rows["network", "lesion", "energy"]
    assert energy["images"] == len(held_out) > 20
    assert energy["flat"] == 0
    assert energy["mean"] > 1.5 * energy["chance"]
    assert energy["above_chance"][0] > 0
    assert rows["network", "lesion", "iou"]["above_chance"][0] > 0
    assert rows["network", "lung", "energy"]["above_chance"][0] > 0
    similar = {(r["part"], r["weights"]): r["rank_correlation"] for r in summary["similarity"]}
    assert similar["network", ALL] < 0.9, "the map depends on the weights"
