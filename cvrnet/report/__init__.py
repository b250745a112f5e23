"""Write report.html: the results of a run on one page (extra ``train``)."""

from cvrnet import figures
from cvrnet.moved import moved_names
from cvrnet.report.write import Section, write_report

__all__ = ["Section", "write_report"]

_COLLECTED = dict.fromkeys(["collect", "summary_rows"], "cvrnet.workflows.collect")
__getattr__ = moved_names(__name__, {**_COLLECTED, **dict.fromkeys(figures.__all__, "cvrnet.figures")})
