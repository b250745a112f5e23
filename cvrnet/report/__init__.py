"""Figures for papers, drawn with matplotlib (extra ``train``) from what `cvrnet.metrics` returns.

Every ``plot_`` function returns a `matplotlib.figure.Figure` and leaves matplotlib's global state alone: no pyplot, no
change of backend or style. Dark text on white, Okabe and Ito's colours (told apart by colour-blind readers).
"""

from cvrnet.report.comparison import plot_comparison
from cvrnet.report.confusion import plot_confusion_matrix
from cvrnet.report.curves import plot_calibration, plot_precision_recall, plot_roc
from cvrnet.report.heads import plot_heads
from cvrnet.report.learning import plot_fold_learning_curves, plot_learning_curves
from cvrnet.report.style import OKABE_ITO, save_figure

__all__ = [
    "OKABE_ITO",
    "plot_calibration",
    "plot_comparison",
    "plot_confusion_matrix",
    "plot_fold_learning_curves",
    "plot_heads",
    "plot_learning_curves",
    "plot_precision_recall",
    "plot_roc",
    "save_figure",
]
