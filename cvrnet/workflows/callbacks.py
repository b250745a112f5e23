"""Callbacks of a running job: progress and messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cvrnet.training import Progress


@dataclass(frozen=True)
class Callbacks:
    """The callbacks of a job, for progress and messages; called on the main process only.

    Attributes:
        say: Called with one line for the user.
        stage: Called with the name of a stage, such as "Decoding" or "Predicting"; returns a function that is called
            with the number of steps done (such as images, bags or epochs) and the number of all steps.
        training: Called with a name and the fold (0 for a single training); returns the `Progress` callbacks for this
            training. In a benchmark, the name is the model; in a leave-one-source-out job, it is "without SOURCE"; in
            other jobs, it is "".
    """

    say: Callable[[str], object] = lambda line: None
    stage: Callable[[str], Callable[[int, int], object]] = lambda name: lambda done, total: None
    training: Callable[[str, int], Progress] = lambda name, fold: Progress()
