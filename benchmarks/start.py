"""Measure how long import, loading and the first prediction take, and how much memory loading needs.

    python benchmarks/start.py [--model cvrnet] [--rounds 5]

Each number is the median over several processes. The different processes run in turn, and all files are in the page
cache. Memory is the peak of the resident memory minus the resident memory before loading. Only Linux can reset this
peak, so memory is not measured on other systems.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import cvrnet
from cvrnet.data import write_phantoms
from cvrnet.runs.checkpoint import save_checkpoint

TIMED = """
import os, re, sys, time
import timm, cvrnet
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.inference import Predictor
def resident(key):
    status = open("/proc/self/status").read() if os.path.exists("/proc/self/status") else ""
    match = re.search(key + r":\\s+(\\d+) kB", status)
    return int(match[1]) * 1024 if match else float("nan")
folder, what = sys.argv[1:]
if os.path.exists("/proc/self/clear_refs"):
    open("/proc/self/clear_refs", "w").write("5")  # resets the peak
before, start = resident("VmRSS"), time.perf_counter()
if what == "read":
    data = open(folder + "/model.safetensors", "rb").read()
elif what == "load":
    model = load_checkpoint(folder)
elif what == "timm":
    model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
else:
    predictor = Predictor.from_pretrained(folder, "cpu")
print(time.perf_counter() - start, resident("VmHWM") - before)
"""


def wall(*arguments: str) -> float:
    """Return the seconds that a Python process takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def timed(folder: Path, what: str) -> tuple[float, float]:
    """Run one step in its own process; return its seconds, and by how many bytes its memory grew at the peak."""
    out = subprocess.run([sys.executable, "-c", TIMED, str(folder), what], check=True, capture_output=True, text=True)
    seconds, memory = map(float, out.stdout.split())
    return seconds, memory


def main() -> None:
    """Measure all steps, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cvrnet")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save_checkpoint(cvrnet.create_model(args.model, num_classes=3), folder, ["CVP", "NCP", "NOR"])
        write_phantoms(Path(temporary) / "phantoms", 12, size=256)
        image = str(next(Path(temporary).glob("phantoms/images/**/*.png")))
        size = os.path.getsize(folder / "model.safetensors")
        processes = {
            "import timm": ["-c", "import timm"],
            "import timm, cvrnet": ["-c", "import timm, cvrnet"],
            "import torch, timm": ["-c", "import torch, timm"],
            "cvrnet predict, one image": ["-m", "cvrnet", "predict", str(folder), image],
            "cvrnet --help": ["-m", "cvrnet", "--help"],
        }
        walls: dict[str, list[float]] = {name: [] for name in processes}
        steps: dict[str, list[tuple[float, float]]] = {name: [] for name in ("read", "load", "ready", "timm")}
        for _ in range(args.rounds):
            for name, arguments in processes.items():
                walls[name].append(wall(*arguments))
            for name, values in steps.items():
                values.append(timed(folder, name))
    second = {name: statistics.median(values) for name, values in walls.items()}
    step = {name: statistics.median(s for s, _ in values) for name, values in steps.items()}
    memory = {name: statistics.median(m for _, m in values) for name, values in steps.items()}
    print(f"{args.model}, {size / 1e6:.0f} MB, {torch.get_num_threads()} threads")
    for name, value in second.items():
        print(f"{name:44}{value:8.2f} s")
    print(f"`import cvrnet` adds {second['import timm, cvrnet'] - second['import timm']:.2f} s to `import timm`\n")
    titles = {
        "read": "reading the file's bytes",
        "load": "load_checkpoint",
        "ready": "Predictor.from_pretrained",
        "timm": "timm.create_model, pretrained",
    }
    for name, text in titles.items():
        print(f"{text:44}{step[name]:8.2f} s   peak {memory[name] / size:5.2f}x the weights")
    limit = 1.5 * step["read"] + 0.5
    print(f"loading: {step['load']:.2f} s, Predictor: {step['ready']:.2f} s; goal (1.5x reading + 0.5): {limit:.2f} s")
    floor = second["import torch, timm"] + step["ready"]
    cold = second["cvrnet predict, one image"]
    print(f"predict in a new process: {cold / floor:.2f}x importing torch and timm and loading the model")


if __name__ == "__main__":
    main()
