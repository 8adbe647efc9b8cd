"""The two Orthancs and, if it is shared, the ledger: whether each answers, reported once per change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core.audit import Audit, Event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddwd.orthanc.port import OrthancPort

_ANSWERS = "ok"
"""State of a peer that answers; any other state is the reason why it does not."""


def silent(states: Mapping[str, str]) -> dict[str, str]:
    """Return the peers that do not answer, each with the reason, from the states in the status file."""
    return {name: state for name, state in states.items() if state != _ANSWERS}


class Peers:
    """What the extractor depends on. `states` is "ok" for each peer that answers, else why not, in one line."""

    def __init__(
        self, gateway: OrthancPort, storage: OrthancPort, audit: Audit, *, shared_ledger: bool
    ) -> None:
        self.gateway, self.storage = self.nodes = gateway, storage
        self._audit = audit
        self._changed = False
        self.states: dict[str, str] = {"gateway": _ANSWERS, "storage": _ANSWERS}
        if shared_ledger:
            self.states["ledger"] = _ANSWERS

    @property
    def all_answer(self) -> bool:
        """Whether no peer is away."""
        return not silent(self.states)

    def answers(self, name: str) -> None:
        """Note that the peer answered."""
        self._note(name, _ANSWERS, Event.PEER_UP, "answers again")

    def is_away(self, name: str, reason: str) -> None:
        """Note that the peer did not answer, or refused."""
        self._note(name, reason, Event.PEER_DOWN, reason)

    def take_change(self) -> bool:
        """Return whether a peer went away or came back since the last call: everything is compared then."""
        changed, self._changed = self._changed, False
        return changed

    def _note(self, name: str, state: str, event: Event, message: str) -> None:
        if (self.states[name] == _ANSWERS) != (state == _ANSWERS):
            self._audit.record(event, f"{name}: {message}", peer=name)
            self._changed = True
        self.states[name] = state
