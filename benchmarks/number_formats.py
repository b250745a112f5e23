"""Compare float32, bfloat16 and the default of `Predictor` on a CPU, for every registered model and other pairs.

    python benchmarks/number_formats.py [--rounds 5] [--batch-size 8]

For each network, with random weights and at its own image size, the script prints the milliseconds per image in three
formats: float32; bfloat16 except in the heads; and the default, in which the encoders' float32 parts also compute in
float32. The formats run in turn, and the numbers are medians. The last column is the speed of the default compared with
float32.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import cvrnet
from cvrnet.inference import Predictor
from cvrnet.runs.float32_parts import KEY

PAIRS = (("resnet18", "resnet34"), ("mobilenetv3_large_100", "regnety_008"), ("vit_small_patch16_224", "resnet50"))


def main() -> None:
    """Measure all networks, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    names = [(name, {}) for name in cvrnet.list_models()] + [("cvrnet", {"encoders": pair}) for pair in PAIRS]
    print(f"{torch.get_num_threads()} threads, {args.batch_size} images per batch; ms per image")
    print(f"{'':44}{'size':>6}{'float32':>10}{'bfloat16':>10}{'default':>10}{'':>7}")
    for name, options in names:
        ms, size = measure(name, options, args.rounds, args.batch_size)
        title = " + ".join(options.get("encoders", (name,)))
        print(f"{title:44}{size:6}{ms[0]:10.1f}{ms[1]:10.1f}{ms[2]:10.1f}{ms[0] / ms[2]:6.2f}x", flush=True)


def measure(name: str, options: dict[str, tuple[str, ...]], rounds: int, count: int) -> tuple[list[float], int]:
    """Return the median milliseconds per image in each of the three formats, and the image size."""
    torch.manual_seed(0)
    size = 0
    predictors = []
    for dtype, parts in (("fp32", None), ("bf16", []), ("auto", None)):
        model = cvrnet.create_model(name, num_classes=3, **options)
        setattr(model, KEY, parts)
        size = model.pretrained_cfg["input_size"][-1]
        predictors.append(Predictor([model], "cpu", dtype))
    times: list[list[float]] = [[] for _ in predictors]
    for i in range(rounds + 1):
        for predictor, seconds in zip(predictors, times, strict=True):
            pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
            start = time.perf_counter()
            predictor.probabilities(pixels)
            if i:  # the first round warms up
                seconds.append((time.perf_counter() - start) / count * 1000)
    return [statistics.median(seconds) for seconds in times], size


if __name__ == "__main__":
    main()
