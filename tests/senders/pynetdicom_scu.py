"""pynetdicom as a sender, with its own defaults but for one race: the job of tests/senders/stacks.py on stdin, a JSON line for each file on stdout."""

from __future__ import annotations

import faulthandler
import json
import ssl
import sys
from typing import TYPE_CHECKING, Any

from pynetdicom import AE
from pynetdicom.presentation import build_context

from ddwd.dicom.upper_layer import Checkpoint
from tests.senders.stacks import ABORTED, NO_CONTEXT, NOT_SENT, REJECTED, UNREACHABLE

if TYPE_CHECKING:
    from pynetdicom.association import Association


_SILENCE = 120
"""Seconds that it waits for an answer; the portal answers within 25 (gateway.answer_within)."""
_STUCK = 200
"""Seconds without an outcome after which it prints where it is stuck, and ends."""


class _Sender(AE):
    """pynetdicom without its race between two requests, in which a response is lost."""

    def _create_socket(self, assoc: Association, *args: Any, **kwargs: Any) -> Any:
        assoc._reactor_checkpoint = Checkpoint(assoc)
        return super()._create_socket(assoc, *args, **kwargs)


def main() -> None:
    """Send over one association; stop at an abort."""
    faulthandler.dump_traceback_later(_STUCK, exit=True)
    job = json.load(sys.stdin)
    application = _Sender(job["calling"])
    application.acse_timeout = application.dimse_timeout = application.network_timeout = _SILENCE
    association = application.associate(
        job["host"], job["port"], [build_context(*pair) for pair in job["contexts"]], ae_title=job["called"],
        tls_args=(_secure(job["tls"]), job["host"]) if job["tls"] else None,
    )  # fmt: skip
    if not _is_open(association):
        outcome = REJECTED if association.is_rejected else UNREACHABLE
        for path in job["files"]:
            _report(path, outcome)
        return
    for path in job["files"]:
        outcome = _store(association, path)
        _report(path, outcome)
        # for a moment an aborted one still counts as open
        if outcome == ABORTED or not _is_open(association):
            return
    association.release()


def _is_open(association: Association) -> bool:
    """Whether it is established: it may end at any time."""
    return association.is_established


def _store(association: Association, path: str) -> str:
    try:
        response = association.send_c_store(path)
    except ValueError as error:
        return NO_CONTEXT if "presentation context" in str(error) else NOT_SENT
    except Exception:  # noqa: BLE001 - a damaged file may make the parser raise anything
        return NOT_SENT
    return f"0x{response.Status:04X}" if "Status" in response else ABORTED


def _secure(tls: dict[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls["authority"])
    context.check_hostname = False  # senders in the field know addresses, not names
    context.load_cert_chain(tls["certificate"], tls["key"])
    return context


def _report(*line: Any) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201 - the output is the report
    faulthandler.dump_traceback_later(_STUCK, exit=True)


if __name__ == "__main__":
    main()
