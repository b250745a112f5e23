"""The optimiser's steps: learning rates and averaged weights, against torch."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cvrnet.errors import UserError
from cvrnet.training import TrainConfig
from cvrnet.training.processes import Processes
from cvrnet.training.updates import Updates

CONFIG = TrainConfig(pretrained=False, device="cpu", amp="fp32", lr=0.1, epochs=6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def loss_of(model: nn.Module, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(16, 5, generator=generator)
    return model(inputs).log_softmax(-1)[:, number % 3].neg().mean()


def train(config: TrainConfig, steps: int = 3, watch: Any = lambda updates, number: None) -> Updates:
    """Every epoch is as good as the first, so that the rate of the papers falls."""
    updates = Updates(network(), config, Processes("cpu", "fp32"))
    for epoch in range(config.epochs):
        for number in range(1 + epoch * steps, 1 + (epoch + 1) * steps):
            updates.backward(loss_of(updates.model, number))
            updates.step(number)
            watch(updates, number)
        updates.end_epoch(0.5)
    return updates


def test_the_papers_updates_are_plain_adam_and_keras_plateau() -> None:
    """To the last bit: no other recipe may change what the papers' protocol gives."""
    mine = train(replace(CONFIG, lr_patience=2, lr_factor=0.5)).model
    plain = network()
    adam = torch.optim.Adam(plain.parameters(), lr=0.1, fused=True)
    rates = [0.1, 0.1, 0.1, 0.05, 0.05, 0.025]  # of the epochs: two without improvement, then it falls
    for number in range(1, 19):
        adam.param_groups[0]["lr"] = rates[(number - 1) // 3]
        adam.zero_grad()
        loss_of(plain, number).backward()
        adam.step()
    for name, value in plain.state_dict().items():
        assert torch.equal(mine.state_dict()[name], value), name


def test_the_average_is_of_weights_and_statistics() -> None:
    states: list[dict[str, Tensor]] = []
    keep = lambda updates, number: states.append(copy.deepcopy(updates.model.state_dict()))  # noqa: E731
    updates = train(replace(CONFIG, ema_decay=0.5), watch=keep)
    assert updates.evaluated is not updates.model
    for name, found in updates.evaluated.state_dict().items():
        expected = states[0][name].double()  # the first step's; the random weights before it do not count
        for number, state in enumerate(states[1:], start=2):
            decay = min(0.5, 1 - number ** (-2 / 3))
            expected = decay * expected + (1 - decay) * state[name]
        expected = states[-1][name].double() if name.endswith("num_batches_tracked") else expected
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert train(CONFIG).evaluated.training  # without an average, the model itself


@pytest.mark.parametrize(
    "wrong",
    [{"ema_decay": 1}, {"ema_decay": -0.1}, {"label_smoothing": 1.0}, {"label_smoothing": "much"}],
)
def test_impossible_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"{next(iter(wrong))}=.*; expected "):
        TrainConfig(**wrong)
