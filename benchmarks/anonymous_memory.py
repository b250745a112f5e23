"""Measure the anonymous memory of a process. It excludes mapped files, which the system may drop and read again."""

from __future__ import annotations

from pathlib import Path


def anonymous_mib(process: int | str = "self") -> float | None:
    """Return the anonymous memory of a process, in MiB; None if the process has ended or the system is not Linux."""
    status = Path(f"/proc/{process}/status")
    found = status.read_text().partition("RssAnon:")[2].split() if status.exists() else []
    return int(found[0]) / 1024 if found else None
