"""What can a data set show? Answered before any training (v2's warning as a tool).

Needs scikit-learn and OpenCV: ``pip install cvrnet[audit]``.
"""

from cvrnet.audit.auditing import audit, read_audited
from cvrnet.audit.examination import Examination
from cvrnet.audit.findings import SEVERITIES, Finding, worst_first
from cvrnet.audit.output import hash_data, read_severe, write_audit
from cvrnet.runs.held_out import held_out

__all__ = [
    "SEVERITIES",
    "Examination",
    "Finding",
    "audit",
    "hash_data",
    "held_out",
    "read_audited",
    "read_severe",
    "worst_first",
    "write_audit",
]
