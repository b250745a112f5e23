"""Remove the privileges of root, so that the permissions of files hold in this thread, as for other users."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_VERSION_3 = 0x20080522
_ACCESS = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def permissions_hold() -> Iterator[None]:
    """In the ``with`` block, root on Linux loses its access to all files; threads started in the block inherit this."""
    if os.name != "posix":
        pytest.skip("no POSIX permissions here")
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may read and write everything")
    libc = ctypes.CDLL(None, use_errno=True)
    header, before = _Header(_VERSION_3, 0), (_Data * 2)()
    if libc.capget(ctypes.byref(header), before):
        raise OSError(ctypes.get_errno(), "capget")
    less = (_Data * 2)(*before)
    less[0] = _Data(before[0].effective & ~_ACCESS, before[0].permitted, before[0].inheritable)
    if libc.capset(ctypes.byref(header), less):
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        libc.capset(ctypes.byref(header), before)
