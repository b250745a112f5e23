"""report.html: what a run has shown, in one page (extra ``train``)."""

from cvrnet.moved import moved_names
from cvrnet.report.write import Section, write_report

__all__ = ["Section", "write_report"]

__getattr__ = moved_names(
    __name__,
    {
        "collect": "cvrnet.workflows.collect",
        "summary_rows": "cvrnet.workflows.collect",
        "OKABE_ITO": "cvrnet.figures",
        "plot_calibration": "cvrnet.figures",
        "plot_comparison": "cvrnet.figures",
        "plot_confusion_matrix": "cvrnet.figures",
        "plot_fold_learning_curves": "cvrnet.figures",
        "plot_heads": "cvrnet.figures",
        "plot_learning_curves": "cvrnet.figures",
        "plot_precision_recall": "cvrnet.figures",
        "plot_roc": "cvrnet.figures",
        "save_figure": "cvrnet.figures",
    },
)
