"""What the sender does when the receiver breaks off an association over an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset

from ddwd.dicom import store_scu
from ddwd.dicom.upper_layer import Peer
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class _Association:
    """An association that its receiver breaks off over the second image, and that still counts as established for a while."""

    def __init__(self) -> None:
        self.is_established = True
        self.sent: list[Path] = []
        self.ended = ""

    def send_c_store(self, path: Path, **_how: Any) -> Dataset:
        assert len(self.sent) < 2, "the answer to this one would be waited for in vain"
        self.sent.append(path)
        answer = Dataset()
        if len(self.sent) == 1:
            answer.Status = 0
        return answer

    def abort(self) -> None:
        self.is_established, self.ended = False, "aborted"

    def release(self) -> None:
        self.is_established, self.ended = False, "released"


def test_what_is_left_after_an_abort_goes_over_a_new_association(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[_Association] = []

    def associate(*_args: Any, **_how: Any) -> _Association:
        opened.append(_Association())
        return opened[-1]

    monkeypatch.setattr(store_scu, "associate", associate)
    monkeypatch.setattr(store_scu, "check_established", lambda *_: None)
    outgoing = [store_scu.examine(path) for path in made_up_ct(tmp_path, 5, seed=6, size=16).paths]
    answers: list[store_scu.Answer] = []
    peer = Peer("127.0.0.1", 104, "CALLED", "CALLING")
    store_scu.send(peer, [one for one in outgoing if isinstance(one, store_scu.Outgoing)], answers.append)
    assert [answer.status for answer in answers] == [0, None, 0, None, 0]
    assert [one.ended for one in opened] == ["aborted", "aborted", "released"]
