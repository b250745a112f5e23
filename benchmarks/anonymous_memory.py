"""The memory of a process that is no mapped file, which the system could drop and read again (on Linux)."""

from __future__ import annotations

from pathlib import Path


def anonymous_mib(process: int | str = "self") -> float | None:
    """Anonymous memory of a process now, in MiB; None where the system does not tell, or if the process has ended."""
    status = Path(f"/proc/{process}/status")
    found = status.read_text().partition("RssAnon:")[2].split() if status.exists() else []
    return int(found[0]) / 1024 if found else None
