"""Predict with trained models: one fold, or all folds of a run as an ensemble."""

from cvrnet.inference.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]
