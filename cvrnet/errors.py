"""The one exception a user's mistake raises."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave, told in one line: the value, and what was expected.

    The command line prints it after ``Error:`` and exits with status 1.
    """
