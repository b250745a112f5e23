"""What a run has shown: scores with intervals, figures, tables and report.html (extra ``train``)."""

from cvrnet.results.collecting import collect, summary_rows
from cvrnet.results.report import write_report
from cvrnet.results.sections import Section

__all__ = ["Section", "collect", "summary_rows", "write_report"]
