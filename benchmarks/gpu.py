"""Measure speed on a GPU, and agreement with the CPU, in some minutes; print tables, and write them to OUT/gpu.json.

    python benchmarks/gpu.py OUT [--device cuda] [--model cvrnet] [--minutes 8] [--only SECTION] [--quick]
    make gpu

Sections: machine, agreement, inference, training, commands, waiting. The rows of a table run in turn, and speeds are
ratios within one run. If a row fails, it is printed and counted, the other rows continue, and the exit status is 1.
With ``--device cpu --quick``, everything runs on a CPU with small sizes, so that the script itself can be tested.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F

import cvrnet
from cvrnet import Predictor
from cvrnet.data import Augmentation, ImageCache, Preprocessing, read_records, write_phantoms
from cvrnet.data.augmentation import change
from cvrnet.data.cached_images import CachedImages
from cvrnet.devices import autocast, select_precision
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint

PLAIN = "plain float32"


class Check:
    """One run of the script. It knows the device, the sizes and the time limit, and collects the rows that failed."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.device = torch.device(args.device)
        self.on_gpu = self.device.type == "cuda"
        self.size = 64 if args.quick else 224
        self.model = "cvrnet_tiny" if args.quick else args.model
        self.failures: list[str] = []
        self.end = time.monotonic() + 60 * args.minutes
        self.run = folder / "model"
        torch.manual_seed(0)
        model = cvrnet.create_model(self.model, num_classes=3)
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, self.size, self.size)}
        save_checkpoint(model, self.run, ["CVP", "NCP", "NOR"])

    def predictor(self, dtype: str = "auto", compile: bool | str = False) -> Predictor:
        """Load the model on the device."""
        return Predictor.from_pretrained(self.run, self.args.device, dtype, compile=compile)

    def pixels(self, count: int) -> torch.Tensor:
        """Return random uint8 images (count, 3, size, size)."""
        return torch.randint(0, 256, (count, 3, self.size, self.size), dtype=torch.uint8)

    def wait(self) -> None:
        """Wait until the GPU has finished all work."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def try_row(self, name: str, function: Callable[[], Any]) -> Any:
        """Return the result of a row; if the row fails, print a line and return None."""
        try:
            return function()
        except Exception as error:  # noqa: BLE001  # the other rows are still measured
            self.failures.append(name)
            print(f"  {name}: FAILED: {type(error).__name__}: {str(error).strip():.300}")
            return None

    def milliseconds(self, rows: dict[str, Callable[[], Any]], rounds: int = 5, calls: int = 3) -> dict[str, float]:
        """Return the median milliseconds of one call of each row; the rows run in turn, after two warm-up calls."""

        def warm(row: Callable[[], Any]) -> bool:
            row()
            row()
            self.wait()
            return True

        working = {name: row for name, row in rows.items() if self.try_row(name, lambda row=row: warm(row))}
        times: dict[str, list[float]] = {name: [] for name in working}
        for _ in range(rounds):
            for name, row in working.items():
                start = time.perf_counter()
                for _ in range(calls):
                    row()
                self.wait()
                times[name].append((time.perf_counter() - start) / calls * 1000)
        return {name: statistics.median(values) for name, values in times.items()}

    def table(self, times: dict[str, float], images: int) -> dict[str, dict[str, float]]:
        """Print each row's time per image, and its speed relative to plain float32; also return images per second."""
        plain = times.get(PLAIN, float("nan"))
        found = {}
        for name, value in times.items():
            found[name] = {"ms": value / images, "ratio": plain / value, "images_per_s": 1000 * images / value}
            print(f"  batch {images:4} {name:40}{value / images:9.3f} ms/image {plain / value:6.2f}x")
        return found


def machine(check: Check) -> dict[str, Any]:
    """The versions, the GPU, and its speed of matrix products in bfloat16."""
    found: dict[str, Any] = {"torch": torch.__version__, "timm": timm.__version__, "cvrnet": cvrnet.__version__}
    found |= {"python": sys.version.split()[0], "cpus": os.cpu_count()}
    if check.on_gpu:
        card = torch.cuda.get_device_properties(check.device)
        found |= {"card": card.name, "memory_GiB": round(card.total_memory / 2**30)}
        found |= {"capability": f"{card.major}.{card.minor}", "cudnn": torch.backends.cudnn.version()}
        a = torch.randn(8192, 8192, device=check.device, dtype=torch.bfloat16)
        seconds = check.milliseconds({"product": lambda: a @ a})["product"] / 1000
        found["bf16_TFLOPS"] = round(2 * 8192**3 / seconds / 1e12)
    print(f"  {found}")
    return found


def agreement(check: Check) -> dict[str, Any]:
    """The largest difference from the probabilities in float32 on the CPU, for each number format and compile mode."""
    images = check.pixels(16)
    expected = Predictor.from_pretrained(check.run, "cpu", "fp32").probabilities(images)
    modes: list[bool | str] = [False, True, "reduce-overhead"] if check.on_gpu else [False]
    found = {}
    for dtype in ("fp32", "bf16", *(("fp16",) if check.on_gpu else ())):
        for mode in modes:

            def compare(dtype: str = dtype, mode: bool | str = mode) -> dict[str, float]:
                predictor = check.predictor(dtype, mode)
                got, part = predictor.probabilities(images), predictor.member_probabilities(images[:5], 16).mean((0, 1))
                return {
                    "max_difference": float(abs(got - expected).max()),
                    "same_class": float((got.argmax(1) == expected.argmax(1)).mean()),
                    "part_of_a_batch": float(abs(part - got[:5]).max()),
                }

            name = f"{dtype}, compile={mode}"
            found[name] = check.try_row(name, compare)
            print(f"  {name}: {found[name]}")
    return found


def inference(check: Check) -> dict[str, Any]:
    """Milliseconds per image of the network alone, compared with plain PyTorch in float32."""
    model = load_checkpoint(check.run).to(check.device)
    preprocessing = Preprocessing.from_model(model)
    settings: list[tuple[str, bool | str]] = [("auto", False), ("fp32", False)]
    if check.on_gpu:
        settings += [("fp16", False), ("auto", True), ("auto", "reduce-overhead")]
    found: dict[str, Any] = {}
    for count in (1, 8) if check.args.quick else (1, 8, 64, 256):
        images = check.pixels(count)

        def plain(images: torch.Tensor = images) -> torch.Tensor:
            with torch.inference_mode():
                return model(preprocessing.normalize(images.to(check.device))).softmax(-1).cpu()

        rows: dict[str, Callable[[], Any]] = {PLAIN: plain}
        for dtype, mode in settings:
            predictor = check.try_row(f"{dtype}, {mode}", lambda dtype=dtype, mode=mode: check.predictor(dtype, mode))
            if predictor is not None:
                name = f"Predictor, {dtype}" + (f", compile={mode}" if mode else "")
                rows[name] = lambda images=images, predictor=predictor: predictor.probabilities(images)
        found[str(count)] = check.table(check.milliseconds(rows), count)
    if check.on_gpu:
        found["peak_GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def training(check: Check) -> dict[str, Any]:
    """Milliseconds per image of a training step, compared with plain PyTorch in float32, and the peak memory."""
    found: dict[str, Any] = {}
    for count in (4,) if check.args.quick else (8, 64):
        rows = {PLAIN: _step(check, count, "fp32", ours=False)}
        for precision in dict.fromkeys((select_precision("auto", check.device), "fp32")):
            rows[f"ours, {precision}"] = _step(check, count, precision, ours=True)
        found[str(count)] = check.table(check.milliseconds(rows), count)
        if check.on_gpu:
            found[f"peak_GiB of {count}"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def _step(check: Check, count: int, precision: str, ours: bool) -> Callable[[], None]:
    """Return a step of `cvrnet.training` (``ours``), or a plain PyTorch step."""
    model = load_checkpoint(check.run).to(check.device).train()
    x = check.pixels(count).to(check.device).float() / 255
    y = torch.randint(0, 3, (count,), device=check.device)
    if ours:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    optimizer = timm.optim.create_optimizer_v2(model, opt="adam", lr=1e-4, **({"fused": True} if ours else {}))

    def step() -> None:
        with autocast(check.device, precision):
            logits = model(x)
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def commands(check: Check) -> dict[str, Any]:
    """Seconds of whole commands on the device, from files to finished folders."""
    count, folder = (60, check.folder) if check.args.quick else (600, check.folder)
    data = write_phantoms(folder / "phantoms", count, size=256)
    files, run = data.parent / "images", folder / "run"
    on_device, small = ["--device", check.args.device], ["--no-audit", "--no-maps", "--no-pretrained"]
    network = ["--model", check.model, "--img-size", check.size, "--batch-size", 16, *small, *on_device]
    rows: dict[str, list[Any]] = {
        "train, 3 epochs": ["train", data, "-o", run, "--epochs", 3, *network],
        "train, 3 epochs, 4 workers": ["train", data, "-o", folder / "w4", "--epochs", 3, "--num-workers", 4, *network],
        "train, 3 epochs, 8 workers": ["train", data, "-o", folder / "w8", "--epochs", 3, "--num-workers", 8, *network],
        "train --freeze all": ["train", data, "-o", folder / "frozen", "--epochs", 3, "--freeze", "all", *network],
        "crossval": ["crossval", data, "-o", folder / "folds", "--folds", 3, "--epochs", 1, *network],
        "predict": ["predict", run, files, "-o", folder / "p.csv", "--batch-size", 64, *on_device],
        "explain": ["explain", run, *sorted(files.rglob("*.png"))[:4], "-o", folder / "maps", *on_device],
        "evaluate": ["evaluate", run, data, "-o", folder / "evaluation", "--no-audit", *on_device],
    }
    if check.on_gpu:
        rows["train, 1 epoch, fp16"] = ["train", data, "-o", folder / "fp16", "--epochs", 1, "--amp", "fp16", *network]
        rows["predict --compile"] = [*rows["predict"], "--compile", "--overwrite"]
    found = {}
    for name, arguments in rows.items():
        seconds = check.try_row(name, lambda arguments=arguments: _command(arguments, check.end))
        found[name] = {"s": seconds, "images_per_s": seconds and count / seconds}
        print(f"  {name}: {found[name]}")
    return found


def _command(arguments: list[Any], end: float) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "cvrnet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(end - time.monotonic(), 30))
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return time.perf_counter() - start


def waiting(check: Check) -> dict[str, float]:
    """Milliseconds per image for reading and augmenting (training waits for these), on one core, without workers."""
    data = write_phantoms(check.folder / "waiting", 60, size=256)
    records = read_records(data)
    cache = ImageCache((check.size, check.size), "RGB", folder=check.folder / "cache")
    images = CachedImages(records, [0] * len(records), cache, Augmentation(), 0)
    batch = torch.zeros(60, 3, check.size, check.size, dtype=torch.uint8, device=check.device)
    changes = torch.stack([images.augmentation.draw((0, 1, i)) for i in range(60)])
    found = {}
    for name, one in (
        ("decoding, once for a whole job", lambda i: cache.load(records[i].path)),
        ("a decoded image from the cache", lambda i: cache.load(records[i].path)),
        ("drawing the changes of an image", lambda i: images.augmentation.draw((0, 1, i))),
        ("an item of an epoch", lambda i: images[1, i]),
    ):
        start = time.perf_counter()
        for i in range(len(records)):
            one(i)
        found[name] = (time.perf_counter() - start) / len(records) * 1000
        print(f"  {name}: {found[name]:.3f} ms")
    name = "changing an image of a batch of 60, on the device"
    found[name] = check.milliseconds({name: lambda: change(batch, changes)})[name] / 60
    print(f"  {name}: {found[name]:.3f} ms")
    return found


SECTIONS: dict[str, Callable[[Check], Any]] = {
    f.__name__: f for f in (machine, agreement, inference, training, commands, waiting)
}


def results(check: Check, chosen: list[str]) -> Iterator[tuple[str, Any]]:
    """Run the chosen sections while there is time; yield the name and the result of each."""
    for name in chosen:
        start = time.monotonic()
        if start > check.end:
            print(f"\n{name}: left out, because the {check.args.minutes:g} minutes are over")
            continue
        print(f"\n{name}: {(SECTIONS[name].__doc__ or '').strip()}", flush=True)
        yield name, check.try_row(name, lambda name=name: SECTIONS[name](check))
        print(f"  ({time.monotonic() - start:.0f} s)", flush=True)


def main() -> int:
    """Run the sections; return the exit status, 1 if a row failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="cvrnet")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", choices=[*SECTIONS], action="append")
    parser.add_argument("--quick", action="store_true", help="cvrnet_tiny at 64 pixels")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("PyTorch finds no GPU; --device cpu --quick runs everything with small sizes", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        check, found = Check(args, Path(folder)), {}
        for name, result in results(check, args.only or [*SECTIONS]):
            found[name] = result
            text = json.dumps(found | {"failures": check.failures}, indent=1)
            (args.out / "gpu.json").write_text(text, encoding="utf-8")
    print(f"\n{len(check.failures)} rows failed{': ' if check.failures else ''}{'; '.join(check.failures)}")
    return int(bool(check.failures))


if __name__ == "__main__":
    sys.exit(main())
