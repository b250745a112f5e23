"""The head alone: the average of softmaxes as logits, and the fully connected blocks."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cvrnet.heads import FCLBlock, MultiScaleAveragingHead, log_mean_sigmoid, log_mean_softmax

WIDTHS = [16, 24, 8]


def head(num_classes: int = 3, **options: object) -> MultiScaleAveragingHead:
    torch.manual_seed(0)
    return MultiScaleAveragingHead(WIDTHS, num_classes, hidden_sizes=(12, 6), **options).eval()  # type: ignore[arg-type]


def maps(batch: int = 2) -> list[Tensor]:
    torch.manual_seed(1)
    return [5 * torch.randn(batch, WIDTHS[0], 9, 7), 5 * torch.randn(batch, WIDTHS[1], 4, 4), torch.randn(batch, 8)]


@st.composite
def branches(draw: st.DrawFn) -> np.ndarray:
    """Logits of several heads, (heads, N, classes), up to 1e4 in size."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(2, 7)))
    size = draw(st.sampled_from([1.0, 30.0, 1e4]))
    seed = draw(st.integers(0, 2**32 - 1))
    logits = np.random.default_rng(seed).uniform(-size, size, shape)
    if draw(st.booleans()):
        logits = np.sign(logits) * size
    return logits


@given(branches())
@settings(deadline=None)
def test_softmax_of_the_result_is_the_mean_of_the_softmaxes(logits: np.ndarray) -> None:
    result = log_mean_softmax([torch.from_numpy(z) for z in logits]).numpy()
    assert np.isfinite(result).all()
    np.testing.assert_allclose(scipy.special.logsumexp(result, -1), 0, atol=1e-9)
    expected = scipy.special.softmax(logits, -1).mean(0)
    np.testing.assert_allclose(scipy.special.softmax(result, -1), expected, rtol=1e-9, atol=1e-300)


@given(branches())
@settings(deadline=None)
def test_single_precision_stays_finite_and_normalised(logits: np.ndarray) -> None:
    result = log_mean_softmax([torch.from_numpy(z).float() for z in logits])
    assert torch.isfinite(result).all()
    torch.testing.assert_close(result.exp().sum(-1), torch.ones(result.shape[0]), atol=1e-5, rtol=0)


@given(branches(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_order_of_the_heads_does_not_matter(logits: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(logits))
    one, other = (log_mean_softmax([torch.from_numpy(z) for z in part]) for part in (logits, logits[order]))
    torch.testing.assert_close(one, other)


@given(branches())
@settings(deadline=None)
def test_sigmoid_of_the_result_is_the_mean_of_the_sigmoids(logits: np.ndarray) -> None:
    """For a finding and for its absence, so that no probability near 1 loses its digits."""
    result = log_mean_sigmoid([torch.from_numpy(z) for z in logits]).numpy()
    assert np.isfinite(result).all()
    for sign in (1, -1):
        expected = scipy.special.expit(sign * logits).mean(0)
        np.testing.assert_allclose(scipy.special.expit(sign * result), expected, rtol=1e-9, atol=1e-300)


@given(branches())
@settings(deadline=None)
def test_single_precision_of_findings_agrees_with_double(logits: np.ndarray) -> None:
    result = log_mean_sigmoid([torch.from_numpy(z).float() for z in logits])
    exact = log_mean_sigmoid([torch.from_numpy(z).float().double() for z in logits])
    torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-6)


def test_the_loss_of_a_finding_is_minus_the_log_of_its_mean_probability() -> None:
    network, labels = head(task="multilabel"), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    p = torch.stack([z.sigmoid() for z in network.branch_logits(maps())]).mean(0)
    loss = nn.functional.binary_cross_entropy_with_logits(network(maps()), labels)
    torch.testing.assert_close(loss, -(labels * p.log() + (1 - labels) * (1 - p).log()).mean())


def test_tasks_and_their_numbers_of_classes() -> None:
    assert head(1, task="multilabel")(maps()).shape == (2, 1)
    with pytest.raises(ValueError, match="a softmax over one class is constant"):
        head(1)
    with pytest.raises(ValueError, match="expected 'multiclass' or 'multilabel'"):
        head(2, task="both")
    one = head(task="multilabel", average="logits")
    torch.testing.assert_close(one(maps()), torch.stack(one.branch_logits(maps())).mean(0))
    scripted = torch.jit.script(head(task="multilabel"))
    torch.testing.assert_close(scripted(maps()), head(task="multilabel")(maps()))


def test_cross_entropy_is_minus_the_log_of_the_mean_probability() -> None:
    network, labels = head(), torch.tensor([0, 2])
    probabilities = torch.stack([z.softmax(-1) for z in network.branch_logits(maps())]).mean(0)
    assert probabilities.std(0).max() > 0.05
    loss = nn.functional.cross_entropy(network(maps()), labels)
    torch.testing.assert_close(loss, -probabilities[[0, 1], labels].log().mean())


def test_gradient_reaches_heads_that_are_sure_of_the_wrong_class() -> None:
    logits = [torch.tensor([[900.0, -900.0]], requires_grad=True), torch.zeros(1, 2, requires_grad=True)]
    nn.functional.cross_entropy(log_mean_softmax(logits), torch.tensor([1])).backward()
    assert logits[1].grad is not None
    torch.testing.assert_close(logits[1].grad, torch.tensor([[0.5, -0.5]]))


@given(
    widths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    classes=st.integers(2, 6),
    hidden=st.lists(st.integers(1, 9), max_size=3),
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=5, max_size=5),
    batch=st.integers(1, 3),
    activation=st.sampled_from(["relu", "gelu", "silu"]),
)
@settings(deadline=None)
def test_any_number_of_maps_of_any_size(
    widths: list[int],
    classes: int,
    hidden: list[int],
    sizes: list[tuple[int, int]],
    batch: int,
    activation: str,
) -> None:
    network = MultiScaleAveragingHead(widths, classes, hidden, activation).eval()
    inputs = [torch.randn(batch, width, *size) for width, size in zip(widths, sizes, strict=False)]
    result = network(inputs)
    assert result.shape == (batch, classes)
    torch.testing.assert_close(result, network([m.mean((2, 3)) for m in inputs]))
    torch.testing.assert_close(
        result.softmax(-1), torch.stack([z.softmax(-1) for z in network.branch_logits(inputs)]).mean(0)
    )
    hidden_widths = [hidden[-1]] * len(widths) if hidden else widths
    assert network.num_features == sum(hidden_widths)
    assert network(inputs, pre_logits=True).shape == (batch, network.num_features)


def test_the_papers_block_has_the_papers_parameters() -> None:
    counts = [sum(p.numel() for p in FCLBlock(width, 3).parameters()) for width in (512, 1024, 4096, 728, 1024)]
    assert counts == [336_771, 598_915, 2_171_779, 447_363, 598_915]


def test_weights_start_as_in_keras() -> None:
    torch.manual_seed(0)
    dense = FCLBlock(1000, 3).hidden[0]
    assert isinstance(dense, nn.Linear)
    limit = (6 / (1000 + 512)) ** 0.5
    assert dense.weight.abs().max() <= limit
    assert dense.weight.abs().max() > 0.99 * limit
    assert not dense.bias.any()


def test_a_map_of_the_wrong_width_is_an_error() -> None:
    inputs = maps()
    inputs[0] = torch.randn(2, 2 * WIDTHS[0], 9, 7)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        head()(inputs)


def test_dropout_acts_in_training_only() -> None:
    network, inputs = head(drop_rate=0.5), maps()
    assert torch.equal(network(inputs), network(inputs))
    network.train()
    assert not torch.equal(network(inputs), network(inputs))


def test_reset_keeps_device_dtype_mode_and_the_dense_layers() -> None:
    network = head().double().to("meta").train(False)
    network.reset(5)
    assert network(  # shapes only: the meta device has no numbers
        [m.to("meta", torch.float64) for m in maps()]
    ).shape == (2, 5)
    assert {(p.device.type, p.dtype) for p in network.parameters()} == {("meta", torch.float64)}
    assert not any(m.training for m in network.modules())
    network = head()
    before = network.blocks[0].get_submodule("hidden.0").weight
    network.reset(0)
    assert torch.equal(network(maps()), network(maps(), pre_logits=True))
    network.reset(2)
    assert network.blocks[0].get_submodule("hidden.0").weight is before


@pytest.mark.parametrize("num_classes", [1, -1])
def test_number_of_classes_that_makes_no_sense(num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"num_classes={num_classes}"):
        head(num_classes)
    with pytest.raises(ValueError, match=f"num_classes={num_classes}"):
        head().reset(num_classes)


def test_no_inputs_and_unknown_activation() -> None:
    with pytest.raises(ValueError, match="in_features is empty"):
        MultiScaleAveragingHead([], 3)
    with pytest.raises(ValueError, match="unknown activation 'relou'"):
        head(act_layer="relou")


@pytest.mark.parametrize("pre_logits", [False, True])
def test_torchscript_gives_the_same(pre_logits: bool) -> None:
    network = head()
    assert torch.equal(torch.jit.script(network)(maps(), pre_logits), network(maps(), pre_logits))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_a_scripted_head_that_was_trained_predicts(average: str) -> None:
    """As timm's train.py --torchscript does: some steps, then validation under inference mode.

    The head has a structure of its own: TorchScript would reuse what it saw of another test's inputs.
    """
    network = MultiScaleAveragingHead(WIDTHS[:2], 3, hidden_sizes=(12,), average=average)
    scripted = torch.jit.script(network)
    layers, images = [nn.Linear(3, width) for width in WIDTHS[:2]], torch.randn(4, 3)
    for _ in range(3):
        scripted([layer(images) for layer in layers]).sum().backward()
    with torch.inference_mode():
        inputs = [layer(images) for layer in layers]
        for _ in range(3):
            torch.testing.assert_close(scripted(inputs), network(inputs))


def test_export_compile_copy_and_pickle_give_the_same() -> None:
    network, expected = head(), head()(maps())
    assert torch.equal(torch.export.export(network, (maps(),)).module()(maps()), expected)
    assert torch.equal(torch.compile(network, fullgraph=True, backend="eager")(maps()), expected)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(maps()), expected)


def test_half_precision() -> None:
    expected = head()(maps())
    halved = head().bfloat16()([m.bfloat16() for m in maps()])
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float().softmax(-1), expected.softmax(-1), atol=0.03, rtol=0)


@given(branches())
@settings(deadline=None)
def test_the_gradient_is_that_of_the_mean_probability(logits: np.ndarray) -> None:
    """Minus the log of the mean probability of class 0; finite however sure the heads are."""
    z = torch.from_numpy(logits).requires_grad_()
    labels = torch.zeros(logits.shape[1], dtype=torch.long)
    nn.functional.cross_entropy(log_mean_softmax(list(z)), labels, reduction="sum").backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    log_p = scipy.special.log_softmax(logits, -1)
    share = scipy.special.softmax(log_p[..., 0], 0)[..., None]  # each head's part in the mean
    expected = share * (np.exp(log_p) - np.eye(logits.shape[-1])[0])
    np.testing.assert_allclose(z.grad.numpy(), expected, atol=1e-9)
