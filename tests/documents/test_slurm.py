"""The examples for SLURM: their syntax, and the commands that a job runs."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest

SLURM = Path(__file__).parents[2] / "examples" / "slurm"
COMMAND = """#!/bin/bash
echo "$(basename "$0") $*" >> "$LOG"
for file in "$@"; do
    [[ $file == *part*.csv ]] && cat "$file" >> "$LOG.rows"
done
true
"""


@pytest.fixture
def job(tmp_path: Path):
    """Run a script as job k of n, with programs that only note how they are called; return the lines."""
    for name in ("cvrnet", "sbatch"):
        (tmp_path / name).write_text(COMMAND, encoding="utf-8")
        (tmp_path / name).chmod(0o755)

    def run(script: str, *arguments: object, k: int, n: int, **variables: str) -> list[str]:
        array = {"SLURM_ARRAY_TASK_ID": k, "SLURM_ARRAY_TASK_MIN": 1, "SLURM_ARRAY_TASK_COUNT": n}
        environment = os.environ | {name: str(value) for name, value in array.items()} | variables
        environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log")}
        environment["SLURM_ARRAY_JOB_ID"] = "77"
        subprocess.run(["bash", SLURM / script, *map(str, arguments)], env=environment, check=True)
        return (tmp_path / "log").read_text(encoding="utf-8").splitlines()

    return run


@pytest.mark.parametrize("script", sorted(path.name for path in SLURM.iterdir()))
def test_the_syntax_is_right(script: str) -> None:
    subprocess.run(["bash", "-n", SLURM / script], check=True)


def test_each_job_trains_its_fold_and_one_submits_the_report(job, tmp_path: Path) -> None:
    (tmp_path / "run" / "fold-2").mkdir(parents=True)
    run = tmp_path / "run"
    one, two = (job("crossval.sbatch", "data.csv", run, k=k, n=5) for k in (1, 2))
    assert one[0].startswith("sbatch --dependency=afterok:77 --array=0")
    assert one[1] == f"cvrnet crossval data.csv -o {run} --folds 5 --only-fold 1 --num-workers 6"
    assert two[2:] == [f"cvrnet crossval data.csv -o {run} --folds 5 --only-fold 2 --num-workers 6 --resume"]
    assert job("crossval.sbatch", "data.csv", run, k=0, n=1, COLLECT="1")[3] == f"cvrnet crossval --collect {run}"


def test_the_jobs_of_a_prediction_share_the_rows(job, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path\n" + "".join(f"{i}.png\n" for i in range(10)), encoding="utf-8")
    for k in (1, 2, 3):
        job("predict.sbatch", "run", manifest, tmp_path / "out", k=k, n=3)
    rows = [row for row in csv.reader((tmp_path / "log.rows").open(encoding="utf-8")) if row != ["path"]]
    assert sorted(rows) == sorted([f"{i}.png"] for i in range(10))
    assert not list(tmp_path.glob("*part*"))
