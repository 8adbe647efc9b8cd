"""What is decided by a status, a path or a kind of problem is decided by a field, whatever the sentence beside it says."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from requests import Response

from ddwd.core.errors import (
    AccessProblem,
    ConfigProblem,
    Failure,
    NotFoundError,
    PeerDownError,
    PeerRefusedError,
    failure_of,
)
from ddwd.dicom.move_scu import MoveOutcome
from ddwd.extractor.peers import silent
from ddwd.orthanc.client import Orthanc
from ddwd.orthanc.transport import Stream
from ddwd.status.report import VolumeState
from ddwd.status.status_codes import MEANINGS, explain
from ddwd.status.units import is_active

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Answers(Orthanc):
    """An Orthanc that answers each request with one HTTP status."""

    def __init__(self, status: int, content: bytes = b"{}") -> None:
        super().__init__("storage", "http://127.0.0.1:1", "u", "p")
        self._answer = status, content

    def _ask(self, *_words: Any, **_options: Any) -> tuple[int, bytes]:
        return self._answer


def test_an_error_of_orthanc_carries_the_http_status_and_orthancs_own() -> None:
    with pytest.raises(PeerRefusedError) as refused:
        _Answers(503, b'{"OrthancStatus": 11}').statistics()
    assert (refused.value.status, refused.value.reason) == ("HTTP 503", 11)
    with pytest.raises(NotFoundError) as missing:
        _Answers(404).statistics()
    assert missing.value.status == ""


def test_an_error_of_orthanc_is_told_in_its_words_but_for_what_may_be_of_a_patient() -> None:
    content = b'{"OrthancStatus": 15, "Message": "Bad file format", "Details": "PatientName Doe^Jane"}'
    with pytest.raises(PeerRefusedError) as refused:
        _Answers(400, content).statistics()
    assert str(refused.value) == "storage: HTTP 400 for /statistics: Bad file format"


def test_a_file_that_ends_too_early_is_no_file() -> None:
    answer = Response()
    answer.headers["Content-Length"] = "5"
    answer.raw = io.BytesIO(b"abc")
    content = Stream(answer, Orthanc("gateway", "http://127.0.0.1:1", "u", "p"))
    assert (len(content), content.read(9)) == (5, b"abc")
    with pytest.raises(PeerDownError, match="gateway does not answer"):
        content.read(9)


def test_a_failure_has_the_status_of_its_error_and_no_text_of_a_foreign_one() -> None:
    assert failure_of(PeerRefusedError("no", 0, "HTTP 409")) == Failure("no", "HTTP 409")
    assert failure_of(PeerDownError("HTTP 500 was said")) == Failure("HTTP 500 was said", "")
    assert failure_of(FileNotFoundError(2, "no such file", "/out/PATIENT")) == Failure("FileNotFoundError")


@pytest.mark.parametrize("status", [0xA702, 0xC000, 0x0110])
def test_a_c_move_is_told_by_a_code_that_has_a_meaning(status: int) -> None:
    outcome = MoveOutcome(status, failed=1)
    assert outcome.code in MEANINGS
    assert outcome.code in outcome.describe()


def test_only_a_status_is_explained_or_the_error_text_of_an_orthanc_job() -> None:
    assert explain("0xA700") == MEANINGS["0xA700"]
    assert explain("Error in the network protocol: 10.0.0.1") == MEANINGS["Error in the network protocol"]
    assert explain("") == ""


def test_peers_that_do_not_answer_are_those_with_a_reason() -> None:
    assert silent({"gateway": "ok", "storage": "storage does not answer"}) == {
        "storage": "storage does not answer"
    }


def test_a_file_that_may_not_be_read_is_a_problem_of_its_own_kind_with_the_same_fields() -> None:
    problem = AccessProblem("/etc/ddwd/ddwd.yaml", None, "file", "cannot be read", "run it with sudo")
    assert isinstance(problem, ConfigProblem)
    assert str(problem) == "/etc/ddwd/ddwd.yaml: file: cannot be read; run it with sudo"


@pytest.mark.parametrize(
    ("answer", "active"),
    [("ActiveState=active\n", True), ("ActiveState=activating\n", False), ("", False), (None, False)],
)
def test_a_unit_is_active_only_in_that_state(answer: str | None, *, active: bool) -> None:
    def systemctl(arguments: Sequence[str]) -> str | None:
        assert arguments[-1] == "ddwd.service"
        return answer

    assert is_active(systemctl, "ddwd.service") is active


def test_the_main_use_of_a_volume_is_its_first() -> None:
    assert VolumeState("output, data", "/x").main_use == "output"
    assert VolumeState("database", "/x").main_use == "database"
