"""Several short campaigns in one process, because each process takes seconds to import everything.

Figures have one pixel, as in most tests; a campaign that runs alone draws real figures.
``python -m tests.support.campaigns '[["fuzz", "--images", "100"], ["interrupts"]]'`` prints the tables of all.
"""

from __future__ import annotations

import importlib
import json
import sys

import pytest

from tests.support.figures import draw_nothing


def main() -> int:
    """Run the campaigns that the first argument lists; return exit status 1 if a check failed in one of them."""
    wrong = 0
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        for name, *arguments in json.loads(sys.argv[1]):
            sys.argv[1:] = arguments
            wrong |= importlib.import_module(f"tests.support.{name}").main()
    return wrong


if __name__ == "__main__":
    sys.exit(main())
