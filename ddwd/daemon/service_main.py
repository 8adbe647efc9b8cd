"""Entry point of optional units: answer ExecCondition= by the settings, print a failure as one line."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from ddwd.config.loader import load
from ddwd.core.errors import DdwdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.config.schema import Config

SKIP, FAILED = 1, 255
"""Exit statuses of ExecCondition=: skip the unit, or fail it."""


def enter(name: str, wanted: Callable[[Config], bool], run: Callable[[Config], None]) -> int:
    """Run until stopped; the exit status is that of the error tree. With `--wanted` only answer whether the settings need it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    asked = sys.argv[1:] == ["--wanted"]
    try:
        config = load()
        if asked:
            return 0 if wanted(config) else SKIP
        run(config)
    except DdwdError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return FAILED if asked else error.exit_status
    return 0
