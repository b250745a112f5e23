"""Predict with one trained model, or with the models of all folds of a run as an ensemble."""

from cvrnet.inference.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]
