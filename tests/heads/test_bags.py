"""Heads for bags of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from cvrnet.heads import BagHead, Bags, MultiScaleAveragingHead
from cvrnet.heads.days import encode_days
from cvrnet.heads.pooling import POOLINGS
from cvrnet.metrics.attention import attention_scores
from cvrnet.training.frozen_bags import StandardizedBags

WIDTHS = [12, 20, 7]


def head(pooling: str = "attention", time: bool = False, seed: int = 0) -> BagHead:
    """A head whose every weight counts, also those that training starts with zero."""
    torch.manual_seed(seed)
    made = BagHead(WIDTHS, 3, (16, 8), pooling=pooling, time=time).eval()
    for name, weight in made.named_parameters():
        if "scale" in name or "when" in name:
            nn.init.normal_(weight, std=0.3)
    return made


def vectors(pictures: int, seed: int = 0) -> list[Tensor]:
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(pictures, width, generator=made) for width in WIDTHS]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_bag_of_one_is_the_ordinary_head(pooling: str) -> None:
    bags, inputs = head(pooling), vectors(5)
    ordinary = MultiScaleAveragingHead(WIDTHS, 3, (16, 8)).eval()
    ordinary.load_state_dict({k: v for k, v in bags.state_dict().items() if k.startswith("blocks")})
    logits, shares = bags.bag_logits(inputs, torch.ones(5, dtype=torch.long))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(logits, ordinary.branch_logits(inputs), strict=True))
    assert torch.equal(bags(inputs), ordinary(inputs))
    maps = [x[:, :, None, None].expand(-1, -1, 2, 2) for x in inputs]
    torch.testing.assert_close(bags(maps), ordinary(maps))
    assert torch.equal(shares, torch.ones(3, 5))


def test_a_bag_of_one_has_no_change() -> None:
    bags, inputs = head(time=True), vectors(5)
    logits, _ = bags.bag_logits(inputs, torch.ones(5, dtype=torch.long), torch.zeros(5))
    for mine, block, x in zip(logits, bags.blocks, inputs, strict=True):
        assert torch.equal(mine, block(torch.cat([x, torch.zeros_like(x)], 1)))
    assert torch.equal(bags(inputs), bags.combine(logits))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from(POOLINGS), st.booleans(), st.data())
def test_order_of_pictures_and_other_bags_do_not_count(
    sizes: list[int], pooling: str, time: bool, data: st.DataObject
) -> None:
    made, inputs = head(pooling, time), vectors(sum(sizes))
    days = torch.cat([torch.arange(n).flip(0).float() * 1.5 for n in sizes])
    whole, shares = made.bag_logits(inputs, torch.tensor(sizes), days)
    first = data.draw(st.integers(0, len(sizes) - 1))
    start = sum(sizes[:first])
    order = torch.tensor(data.draw(st.permutations(range(start, start + sizes[first]))))
    alone, mine = made.bag_logits([x[order] for x in inputs], torch.tensor([len(order)]), days[order])
    for together, single in zip(whole, alone, strict=True):
        torch.testing.assert_close(single[0], together[first], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mine, shares[:, order], atol=1e-5, rtol=1e-4)
    totals = shares[:, start : start + sizes[first]].sum(1)
    torch.testing.assert_close(totals, torch.ones(3))


def test_days_count_only_with_time() -> None:
    inputs, sizes = vectors(6), torch.tensor([4, 2])
    days = torch.tensor([5.0, 3, 1, 0, 2, 0])
    for time in (False, True):
        made = head(time=time)
        one, other = (
            made.bag_logits(inputs, sizes, d)[0][0] for d in (days, days * torch.tensor([2.0, 1, 1, 1, 1, 1]))
        )
        assert torch.equal(one[1], other[1])
        assert torch.equal(one[0], other[0]) != time


def test_waves_are_zero_on_the_last_day_and_tell_days_apart() -> None:
    waves = encode_days(torch.tensor([0.0, 1, 2, 30, 365]))
    assert torch.equal(waves[0], torch.zeros(16))
    assert torch.pdist(waves).min() > 0.1


def test_attention_is_that_of_the_paper() -> None:
    pool, x = head().pools[0], vectors(7)[0]
    with torch.no_grad():
        scores = [
            pool.score(torch.tanh(pool.content(row)) * torch.sigmoid(pool.gate(row))).item() for row in x
        ]  # eq. 9, picture by picture
        weights = np.exp(scores) / np.exp(scores).sum()
        pooled, shares = pool(x, torch.zeros(7, dtype=torch.long), 1, torch.zeros(7))
    np.testing.assert_allclose(shares.numpy(), weights, rtol=1e-5)
    np.testing.assert_allclose(pooled[0].numpy(), weights @ x.numpy(), rtol=1e-4, atol=1e-6)
    mean, most = (
        head(name).pools[0](x, torch.zeros(7, dtype=torch.long), 1, torch.zeros(7)) for name in ("mean", "max")
    )
    torch.testing.assert_close(mean[0][0], x.mean(0))
    torch.testing.assert_close(most[0][0], x.amax(0))
    torch.testing.assert_close(most[1], torch.bincount(x.argmax(0), minlength=7) / x.shape[1])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("time", [False, True])
def test_the_standardisation_is_folded(pooling: str, time: bool) -> None:
    model = timm.create_model("cvrnet_tiny", unit="study", pooling=pooling, time=time, num_classes=2).eval()
    width = sum(channels for encoder in model.encoders for channels in encoder.channels)
    made = torch.Generator().manual_seed(0)
    mean, std = torch.randn(width, generator=made), torch.rand(width, generator=made) + 0.5
    net = StandardizedBags(model.head, model, mean, std).eval()
    x = torch.randn(9, width, generator=made) * 2 + mean
    bags = Bags(x, torch.tensor([4, 5]), torch.tensor([3.0, 2, 1, 0, 8, 4, 2, 1, 0]))
    folded = net.folded()
    with torch.no_grad():
        inside = folded.combine(folded.bag_logits(net.split(x), bags.sizes, bags.days)[0])
        torch.testing.assert_close(net(bags), inside, atol=1e-5, rtol=1e-4)


def fitted(pooling: str, time: bool, bags: list[Tensor], labels: Tensor, days: list[Tensor]) -> tuple[float, list]:
    """AUC on the second half of the bags of a head that was trained on the first half, and the shares."""
    torch.manual_seed(0)
    made = BagHead([bags[0].shape[1]], 2, (16,), pooling=pooling, time=time)
    optimizer = torch.optim.AdamW(made.parameters(), 5e-3, weight_decay=0.01)
    half = len(bags) // 2

    def logits(part: slice) -> tuple[Tensor, Tensor]:
        sizes = torch.tensor([len(bag) for bag in bags[part]])
        found, shares = made.bag_logits([torch.cat(bags[part])], sizes, torch.cat(days[part]))
        return made.combine(found), shares

    for _ in range(30):
        for start in range(0, half, 20):
            part = slice(start, start + 20)
            loss = nn.functional.cross_entropy(logits(part)[0], labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        scores, shares = logits(slice(half, None))
    split = shares.mean(0).split([len(bag) for bag in bags[half:]])
    return float(roc_auc_score(labels[half:], scores.softmax(1)[:, 1])), [part.numpy() for part in split]


def test_attention_finds_few_pictures_and_mean_does_not() -> None:
    rng = np.random.default_rng(0)
    labels = torch.arange(240) % 2
    sizes = rng.integers(15, 30, 240)
    planted = [(np.arange(n) == rng.integers(n)) & bool(label) for n, label in zip(sizes, labels, strict=True)]
    bags = [
        torch.from_numpy(rng.normal(0, 1, (len(p), 16)) + 3.5 * p[:, None] * (np.arange(16) < 4)).float()
        for p in planted
    ]
    days = [torch.zeros(len(bag)) for bag in bags]
    attention, shares = fitted("attention", False, bags, labels, days)
    mean, _ = fitted("mean", False, bags, labels, days)
    assert attention > 0.95 > mean + 0.1
    assert attention_scores(shares, planted[120:])["roc_auc"] > 0.95


def test_time_finds_a_trend_and_no_time_does_not() -> None:
    rng = np.random.default_rng(0)
    labels = torch.arange(240) % 2
    bags, days = [], []
    for label in labels:
        count = int(rng.integers(3, 7))
        change = np.linspace(0, 1.5, count) * (1 if label else -1)
        level = rng.normal(0, 2, 8) + (change - change.mean())[:, None] * (np.arange(8) < 3)
        bags.append(torch.from_numpy(level + rng.normal(0, 0.2, (count, 8))).float())
        days.append(torch.arange(count).flip(0).float() * 2)
    assert fitted("attention", True, bags, labels, days)[0] > 0.95
    assert fitted("attention", False, bags, labels, days)[0] < 0.7
