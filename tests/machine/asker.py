"""A modality that asks for storage commitment and listens for the report (PS3.4 annex J): run on the modality's network, by its own path.

Standard input: JSON with `aet`, `listen` (port), `transaction`, `references` ([SOP class, SOPInstanceUID], ...; without any it does
not ask) and `wait` (seconds to listen; 0: it does not). Standard output, one line of JSON each: `asked` with the status of the
N-ACTION (null where it was aborted), then `report` with event type, transaction, and the UIDs committed and failed (to reason);
null where none came.
"""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt

MODEL, INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
GATEWAY = ("10.99.0.1", 4242)


def main() -> None:
    """Ask, and say what was answered and what was reported."""
    order = json.load(sys.stdin)
    reports: queue.Queue[dict[str, Any]] = queue.Queue()
    entity = AE(order["aet"])
    entity.add_supported_context(MODEL, scu_role=True, scp_role=True)
    heard = _Heard(reports)
    server = entity.start_server(
        ("", order["listen"] if order["wait"] else 0),
        block=False,
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, heard.report), (evt.EVT_RELEASED, heard.released)],
    )
    assert server is not None
    if order["references"]:
        _say("asked", _ask(order))
    try:
        _say("report", reports.get(timeout=order["wait"]))
    except queue.Empty:
        _say("report", None)
    server.shutdown()


def _ask(order: dict[str, Any]) -> int | None:
    """The status of the N-ACTION."""
    information = Dataset()
    information.TransactionUID = order["transaction"]
    information.ReferencedSOPSequence = [_reference(*pair) for pair in order["references"]]
    entity = AE(order["aet"])
    entity.add_requested_context(MODEL)
    association = entity.associate(*GATEWAY, ae_title="ORTHANC1")
    status, _ = association.send_n_action(information, 1, MODEL, INSTANCE)
    if association.is_established:
        association.release()
    return int(status.Status) if "Status" in status else None


def _reference(sop_class: str, sop_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_uid
    return item


class _Heard:
    """What was reported; said once the association was released, so that the portal knows it too."""

    def __init__(self, reports: queue.Queue[dict[str, Any]]) -> None:
        self._reports = reports
        self._last: dict[str, Any] = {}

    def report(self, event: evt.Event) -> tuple[int, None]:
        said = event.event_information
        self._last = {
            "event": event.event_type,
            "from": event.assoc.requestor.ae_title,
            "transaction": str(said.TransactionUID),
            "committed": [str(one.ReferencedSOPInstanceUID) for one in said.get("ReferencedSOPSequence", [])],
            "failed": {
                str(one.ReferencedSOPInstanceUID): int(one.FailureReason)
                for one in said.get("FailedSOPSequence", [])
            },
        }
        return 0x0000, None

    def released(self, _event: evt.Event) -> None:
        self._reports.put(self._last)


def _say(what: str, value: object) -> None:
    sys.stdout.write(json.dumps({what: value}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
