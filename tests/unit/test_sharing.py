"""Claims of several extractors: what a new connection to the shared ledger demands is not forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core.errors import PeerDownError
from ddwd.store.claims import Claims, SharedWork
from tests.unit.fakes import image
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from ddwd.core.model import OrthancId


class Shared(Claims):
    """Claims that are shared; each entry of `looks` is one look at the connection: whether it is new."""

    are_shared = True

    def __init__(self) -> None:
        self.looks: list[bool] = []
        self.breaks = False
        self.asked: list[OrthancId] = []

    def connect(self) -> bool:
        """See Claims."""
        return self.looks.pop(0) if self.looks else False

    def shared_work(self) -> SharedWork:
        """See Claims."""
        if self.breaks:
            raise PeerDownError("it broke again")
        return SharedWork(requested=self.asked)


def test_the_cursors_are_read_again_although_the_new_connection_broke_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = Portal(tmp_path)
    claims = Shared()
    monkeypatch.setattr(portal.extractor.sharing, "claims", claims)
    portal.extractor.peers.states["ledger"] = "ok"
    rewound: list[int] = []
    monkeypatch.setattr(portal.extractor.sources, "rewind", lambda: rewound.append(1))
    claims.looks, claims.breaks = [True], True
    portal.loop.run()
    assert rewound == []
    claims.breaks = False
    portal.loop.run()
    portal.loop.run()
    assert rewound == [1]


def test_a_ledger_that_goes_away_while_another_operator_s_retry_is_done_only_makes_the_study_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = Portal(tmp_path)
    one = image()
    portal.deliver(one)
    portal.loop.run()
    claims = Shared()
    claims.asked = [one.study_id]
    monkeypatch.setattr(portal.extractor.sharing, "claims", claims)
    portal.extractor.peers.states["ledger"] = "ok"

    def away() -> list[object]:
        raise PeerDownError("the shared ledger went away")

    monkeypatch.setattr(portal.quarantine, "entries", away)
    portal.loop.run()
    claims.asked = []
    portal.run(30)
    assert portal.published() == names(one)
