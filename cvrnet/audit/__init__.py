"""Audit a data set before training: look for shortcuts, copies, wrong labels and other problems.

Needs scikit-learn, OpenCV and cleanlab: ``pip install cvrnet[audit]``.
"""

# Import the old module cvrnet.audit.held_out before the function of this name: if the module was imported later, its
# import would replace the function in this package.
import cvrnet.audit.held_out  # noqa: F401
from cvrnet.audit.audit_data import (
    audit,
    check_audit_folder,
    hash_data,
    read_audited,
    read_outcome_audited,
    read_severe,
    write_audit,
)
from cvrnet.audit.examination import Examination
from cvrnet.audit.findings import SEVERITIES, Finding, worst_first
from cvrnet.runs.held_out import held_out

__all__ = [
    "SEVERITIES",
    "Examination",
    "Finding",
    "audit",
    "check_audit_folder",
    "hash_data",
    "held_out",
    "read_audited",
    "read_outcome_audited",
    "read_severe",
    "worst_first",
    "write_audit",
]
