"""Run openssl(1), which makes and reads certificates, and requests and checks time stamps."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ddwd.core.errors import DdwdError
from ddwd.provisioning.host import completed

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS = 60


def run(arguments: Sequence[str], trouble: str, text: str = "") -> str:
    """Run openssl with `text` as its standard input; return its output. Files that it makes are for their owner alone.

    Raises DdwdError, which says `trouble` and what openssl complains of.
    """
    program = shutil.which("openssl")
    if program is None:
        raise DdwdError("openssl is not installed: apt install openssl")
    command = [program, *arguments]
    done = completed(command, complaint_line=0, input=text.encode(), timeout=_SECONDS, umask=0o077)
    if done.status:
        raise DdwdError(f"{trouble}: {done.complaint or 'openssl failed'}")
    return done.out
