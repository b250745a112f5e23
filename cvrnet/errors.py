"""The exception for mistakes in the user's input."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in the user's input, described in one line that names the value and what was expected.

    The command line prints this line after ``Error:`` and exits with status 1.
    """
