"""Scores of predictions, with intervals, by source and by head."""

from cvrnet.scoring.head_accuracy import head_rows
from cvrnet.scoring.score import score

__all__ = ["head_rows", "score"]
