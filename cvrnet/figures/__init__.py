"""Draw figures for papers with matplotlib (extra ``train``), from the results of `cvrnet.metrics`.

Every ``plot_`` function returns a `matplotlib.figure.Figure` and does not change matplotlib's global state: it uses no
pyplot, and keeps the backend and the style. Figures have dark text on white, and the colours of Okabe and Ito, which
colour-blind readers can distinguish. ``title`` is the heading of the figure; by default, a figure has no heading.

The first and the second CVR-Net paper are arXiv 2007.11993 and medRxiv 2020.11.07.20227504.
"""

from cvrnet.figures.plot_attention import plot_attention
from cvrnet.figures.plot_comparison import plot_comparison
from cvrnet.figures.plot_confusion import plot_confusion_matrix
from cvrnet.figures.plot_curves import plot_calibration, plot_precision_recall, plot_roc
from cvrnet.figures.plot_decision import plot_decision_curves
from cvrnet.figures.plot_findings import plot_findings
from cvrnet.figures.plot_heads import plot_heads
from cvrnet.figures.plot_learning import plot_fold_learning_curves, plot_learning_curves
from cvrnet.figures.plot_paired import plot_paired
from cvrnet.figures.plot_risk import plot_risk_coverage
from cvrnet.figures.style import OKABE_ITO, save_figure

__all__ = [
    "OKABE_ITO",
    "plot_attention",
    "plot_calibration",
    "plot_comparison",
    "plot_confusion_matrix",
    "plot_decision_curves",
    "plot_findings",
    "plot_fold_learning_curves",
    "plot_heads",
    "plot_learning_curves",
    "plot_paired",
    "plot_precision_recall",
    "plot_risk_coverage",
    "plot_roc",
    "save_figure",
]
