"""Turn exceptions of the Hugging Face Hub's client into one-line messages: what failed, why, and what to do."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from huggingface_hub import constants, errors

from cvrnet.errors import UserError

CLIENT_ERRORS: tuple[type[Exception], ...] = (errors.HTTPError, OSError, RuntimeError, ValueError)
"""All exceptions of the Hub's client: its own errors, the errors of its HTTP library, RuntimeError from LFS,
ConnectionError from Xet, and ValueError if the client cannot parse a response."""
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_WAITS = (1, 2, 4)
_AGAIN = "repeat the command"
_LOGIN = "use `hf auth login`, or set HF_TOKEN"
_BAD_TOKEN = ("the Hub does not accept the token", f"{_LOGIN}, with a valid token, then {_AGAIN}")
_PUSHED = ("somebody else pushed to it at the same time", _AGAIN)

_ACCESS: dict[type[Exception], tuple[str, str]] = {
    errors.LocalTokenNotFoundError: ("there is no token", _LOGIN),
    # GatedRepoError is a subclass of RepositoryNotFoundError, so it comes first.
    errors.GatedRepoError: ("the owner must grant you access", "request access on the repository's page"),
    errors.RepositoryNotFoundError: (
        "there is no such repository, or it is private and you have no access",
        f"check the name; for a private repository, {_LOGIN}",
    ),
    errors.RevisionNotFoundError: ("the repository has no such branch, tag or commit", "check the name after the @"),
    errors.HFValidationError: ("this is not the name of a repository", "expected user/repo"),
}
_STATUS = {
    401: _BAD_TOKEN,
    409: _PUSHED,
    412: _PUSHED,
    429: ("too many requests (HTTP 429)", f"wait some minutes, then {_AGAIN}"),
}

T = TypeVar("T")
P = ParamSpec("P")


@contextmanager
def hub_errors(task: str, safe: Callable[[], str]) -> Iterator[None]:
    """Turn every exception of the Hub's client into a UserError that names the failed task, the reason, and what to do.

    ``safe()`` is called after a failure; it returns what the user must know about the state of the task, such as
    "nothing was changed".
    """
    try:
        yield
    except UserError:
        raise
    except CLIENT_ERRORS as error:
        what, advice = explain(error)
        raise UserError(f"{task}: {what}; {safe()}; {advice}") from error


def with_retries(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function; while the Hub or the network fails, call it again, after waits of 1, 2 and 4 seconds.

    The Hub's client itself retries only uploads and some requests of a download.
    """
    for wait in _WAITS:
        try:
            return call(*args, **kwargs)
        except CLIENT_ERRORS as error:
            if not is_transient(error):
                raise
            time.sleep(wait)
    return call(*args, **kwargs)


def is_transient(error: BaseException) -> bool:
    """Return whether the request may succeed if it is repeated a little later."""
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in _TRANSIENT
    return isinstance(error, errors.HTTPError)


def explain(error: BaseException) -> tuple[str, str]:
    """Return what happened, and what to do about it, according to the error or one of its causes."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for explain_kind in (_explain_disk, _explain_offline, _explain_access, _explain_answer, _explain_connection):
        for link in chain:
            if explanation := explain_kind(link):
                return explanation
    lines = str(error).strip().splitlines()
    return (lines[0].rstrip(".:") if lines else type(error).__name__), _AGAIN


def _explain_disk(error: BaseException) -> tuple[str, str] | None:
    # hf_xet (written in Rust) gives the errno only in the text of its message.
    in_text = next((n for n in (*_DISK_FULL, *_FORBIDDEN) if f"(os error {n})" in str(error)), None)
    number, name = getattr(error, "errno", None) or in_text, getattr(error, "filename", None)
    if number in _DISK_FULL:
        return "no space left on the disk", f"free some space, or set HF_HOME to another disk, then {_AGAIN}"
    if number not in _FORBIDDEN or not (name or in_text):
        return None
    path, reason = Path(str(name)), os.strerror(number)
    if in_text or {Path(constants.HF_HUB_CACHE), Path(constants.HF_HOME)} & {path, *path.parents}:
        what = f"the cache {constants.HF_HUB_CACHE} cannot be written ({reason})"
        return what, f"set HF_HOME to a folder that can be written, then {_AGAIN}"
    return f"{path}: {reason}", f"choose another folder, or change this one, then {_AGAIN}"


def _explain_offline(error: BaseException) -> tuple[str, str] | None:
    if not isinstance(error, errors.OfflineModeIsEnabled):
        return None
    names = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)]
    return f"{(names or ['HF_HUB_OFFLINE'])[0]}=1 forbids asking the Hub", f"unset it, then {_AGAIN}"


def _explain_access(error: BaseException) -> tuple[str, str] | None:
    if type(error).__name__ == "XetAuthenticationError":  # by name, because hf_xet may not be installed
        return _BAD_TOKEN
    return next((explanation for kind, explanation in _ACCESS.items() if isinstance(error, kind)), None)


def _explain_answer(error: BaseException) -> tuple[str, str] | None:
    if not isinstance(error, errors.HfHubHTTPError):
        return None
    status, message = error.response.status_code, (error.server_message or "").partition("\n")[0].rstrip(".")
    if status == 403:
        return f"the token does not allow it ({message or 'HTTP 403'})", "use a token with write permission"
    if status >= 500:
        return f"the Hub answered HTTP {status}", f"{_AGAIN} later"
    return _STATUS.get(
        status,
        (f"the Hub refused the request ({message or f'HTTP {status}'})", "correct the problem that the Hub names"),
    )


def _explain_connection(error: BaseException) -> tuple[str, str] | None:
    if isinstance(error, errors.HTTPError) and not isinstance(error, errors.HfHubHTTPError):
        return f"the connection to {constants.ENDPOINT} failed ({type(error).__name__})", f"{_AGAIN} later"
    if isinstance(error, ConnectionError):
        return f"the transfer was interrupted ({str(error).partition(chr(10))[0][:100]})", _AGAIN
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the files are not in the cache and the Hub cannot be reached", f"{_AGAIN} when it can be reached"
    return None
