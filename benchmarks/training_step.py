"""Compare a training step of this library (with its defaults) with a plain PyTorch step, in one run.

    python benchmarks/training_step.py [--model cvrnet] [--img-size 224] [--batch-size 8] [--steps 5]

The plain step uses float32, contiguous memory, eager mode and Adam. Our step is the step of ``cvrnet train`` on this
machine: channels_last, and bfloat16 autocast if the processor has instructions for it. Both steps run in turn, so that
a change of the machine's speed affects both, and the table gives medians. The peak memory of each is measured in its
own process.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F

import cvrnet  # noqa: F401  # registers the models
from cvrnet.devices import autocast, select_device, select_precision
from cvrnet.training import TrainConfig
from cvrnet.training.model import create_for_training


def plain_step(args: argparse.Namespace, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """Return a plain PyTorch step."""
    model = timm.create_model(args.model, num_classes=3).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def step() -> None:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(args: argparse.Namespace, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """Return the step of ``cvrnet.training.fit``."""
    config = TrainConfig(model=args.model, pretrained=False, img_size=args.img_size, device="cpu")
    device = select_device("cpu")
    precision = select_precision(config.amp, device)
    model = create_for_training(config, 3).to(memory_format=torch.channels_last).train()
    optimizer = timm.optim.create_optimizer_v2(model, opt=config.optimizer, lr=config.lr, fused=True)

    def step() -> None:
        with autocast(device, precision):
            logits = model(x.contiguous(memory_format=torch.channels_last))
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


STEPS = {"plain": plain_step, "ours": our_step}


def peak_mib(args: argparse.Namespace, which: str) -> float:
    """Return the peak resident memory of a process that runs two steps."""
    command = [sys.executable, __file__, "--only", which, "--model", args.model, "--img-size", str(args.img_size)]
    out = subprocess.run([*command, "--batch-size", str(args.batch_size)], check=True, capture_output=True, text=True)
    return float(out.stdout)


def main() -> None:
    """Measure both steps, and print their times and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cvrnet")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", choices=list(STEPS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(args.batch_size, 3, args.img_size, args.img_size)
    y = torch.randint(0, 3, (args.batch_size,))
    if args.only:
        step = STEPS[args.only](args, x, y)
        step(), step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    steps = {name: make(args, x, y) for name, make in STEPS.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(args.steps + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if i:  # the first round warms up
                times[name].append((time.perf_counter() - start) / args.batch_size * 1000)
    ms = {name: statistics.median(values) for name, values in times.items()}
    memory = {name: peak_mib(args, name) for name in steps}
    precision = select_precision("auto", select_device("cpu"))
    print(
        f"{args.model}, {args.img_size} px, batch {args.batch_size}, {torch.get_num_threads()} threads, "
        f"default precision on {select_device('cpu')}: {precision}"
    )
    print(f"{'':8}{'ms/image':>10}{'peak MiB':>10}")
    for name in steps:
        print(f"{name:8}{ms[name]:10.1f}{memory[name]:10.0f}")
    print(f"speed: {ms['plain'] / ms['ours']:.2f}x the plain step; memory: {memory['ours'] / memory['plain']:.2f}x")


if __name__ == "__main__":
    main()
