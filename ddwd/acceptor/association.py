"""Whose association it is, and what happens in it: counted, audited, explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.acceptor import reasons

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ddwd.acceptor.hold_off import HoldOff
    from ddwd.acceptor.relay import Exchange
    from ddwd.acceptor.senders import Refusal, Senders
    from ddwd.dicom.association_pdu import Answer


@dataclass(frozen=True, slots=True)
class Association:
    """An accepted association of `aet` at `address`; `answers` are its presentation contexts.

    `verdict` returns why ORTHANC1's admission filter has refused an instance, empty if it has not.
    """

    aet: str
    address: str
    answers: Mapping[int, Answer]
    senders: Senders
    hold_off: HoldOff
    verdict: Callable[[str], str]

    def stored(self, sop_uid: str) -> None:
        """Count an image that ORTHANC1 has acknowledged."""
        self.senders.stored(self.aet, self.address)
        self.hold_off.stored(self.address, sop_uid)

    def refused(self, refusal: Refusal) -> None:
        """Count and audit a refusal."""
        self.senders.refused(self.aet, self.address, refusal)

    def cut(self, sop_uid: str) -> None:
        """Note that ORTHANC1 ended the connection while it had that image."""
        self.hold_off.cut(self.aet, self.address, sop_uid)

    def explained(self, refusal: Refusal, exchange: Exchange) -> Refusal:
        """Return the refusal with its reason, its image, and the status that the modality gets."""
        answer = self.answers.get(exchange.context_id)
        verdict = (
            self.verdict(exchange.request.sop_instance) if exchange.request and not refusal.reason else ""
        )
        return reasons.of_image(refusal, exchange, answer.transfer_syntax if answer else "", verdict)
