"""What can a data set show? Answered before any training (v2's warning as a tool).

Needs scikit-learn and OpenCV: ``pip install cvrnet[audit]``.
"""

from cvrnet.audit.auditing import audit, read_audited
from cvrnet.audit.findings import SEVERITIES, Finding, worst_first
from cvrnet.audit.output import write_audit

__all__ = ["SEVERITIES", "Finding", "audit", "read_audited", "worst_first", "write_audit"]
