"""What a training on a CPU says about its time: before the first epoch ends, once for each stage."""

import time

import pytest

from cvrnet.training import TrainConfig
from cvrnet_cli.forecast import Forecast

ALL = "; --freeze all trains only the heads of a CVR-Net, which takes seconds"


def run(monkeypatch, capsys, epochs, seconds, freeze=0, batches=10, device="cpu"):
    """The lines of a training whose batches of 8 images take so many seconds, and five times as long for the first."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr("cvrnet.devices.select_device", lambda name: type("Device", (), {"type": name}))
    forecast = Forecast(TrainConfig(epochs=epochs, freeze=freeze, device=device))
    for epoch in range(1, epochs + 1):
        started = now[0]
        forecast.start(epoch, 8 * batches)
        for batch in range(batches):
            now[0] += seconds if batch else 5 * seconds
            forecast.step(8)
        forecast.end(now[0] - started)
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"epochs": 3, "seconds": 1}, ["On this CPU an epoch takes about 10 s, 3 epochs 30 s"]),
        ({"epochs": 50, "seconds": 9}, [f"On this CPU an epoch takes about 90 s, 50 epochs 75 min{ALL}"]),
        ({"epochs": 2, "seconds": 0.1, "batches": 3}, ["On this CPU an epoch takes about 1 s, 2 epochs 1 s"]),
        (
            {"epochs": 5, "seconds": 1, "freeze": 2},
            [
                "On this CPU an epoch of the heads takes about 10 s, 2 epochs 20 s",
                "On this CPU an epoch takes about 10 s, 3 epochs 30 s",
            ],
        ),
        ({"epochs": 3, "seconds": 1, "freeze": "all"}, []),
        ({"epochs": 3, "seconds": 1, "freeze": 1, "device": "cuda"}, []),
    ],
)
def test_the_time_is_told_once_for_each_stage(monkeypatch, capsys, settings, lines):
    assert run(monkeypatch, capsys, **settings) == lines
