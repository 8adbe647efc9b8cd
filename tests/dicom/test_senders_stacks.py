"""The three DICOM stacks of tests/senders against the real receiver: what each of them reports is what happened; and the judges of what arrived."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, _config, evt

from tests import certificates
from tests.dicom.test_tls import SecurePortal
from tests.senders import corpus, dciodvfy
from tests.senders.recorder import Recorder
from tests.senders.stacks import (
    ABORTED,
    NO_CONTEXT,
    NOT_SENT,
    REJECTED,
    STACKS,
    SUCCESS,
    UNREACHABLE,
    Tls,
    send,
)
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.dicom.conftest import Portal

CT = "1.2.840.10008.5.1.4.1.1.2"
REAL = ("CT_small.dcm", "MR_small_bigendian.dcm", "rtplan.dcm", "JPEG2000.dcm", "693_J2KI.dcm",
        "SC_rgb_rle_2frame.dcm", "examples_palette.dcm", "reportsi.dcm")  # fmt: skip
UNKNOWN_TO = {"dcmtk": {"syntax-733", "syntax-734"}, "pynetdicom": {"syntax-734"}, "dcmjs-dimse": set()}
"""Transfer syntaxes that a stack does not know: HTJ2K (DCMTK of Debian 13 knows it), and a private one."""

stacks = pytest.mark.parametrize("stack", STACKS)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def real(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real files in the common transfer syntaxes, and all made-up ones."""
    return [*map(real, REAL), *corpus.made_up(tmp_path_factory.mktemp("made-up"))]


@contextmanager
def peer(handler: Any) -> Iterator[int]:
    """A receiver of CT in Explicit VR Little Endian with that handler for C-STORE; its port."""
    application = AE("PEER")
    application.add_supported_context(CT, ExplicitVRLittleEndian)
    application.require_called_aet = True
    server = application.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handler)]
    )
    assert server is not None
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()


def to(portal: Portal, stack: str, paths: list[Path], tls: Tls | None = None) -> dict[Path, str]:
    return send(stack, paths, "127.0.0.1", portal.scp.port, portal.config.scp.aet, "TEST", tls)


@stacks
def test_what_a_stack_sends_arrives_and_is_reported_file_by_file(
    portal: Portal, files: list[Path], tmp_path: Path, stack: str
) -> None:
    outcomes = to(portal, stack, files)
    assert set(outcomes) == set(files)
    others = {path.stem: outcome for path, outcome in outcomes.items() if outcome != SUCCESS}
    assert set(others) <= UNKNOWN_TO[stack]
    assert set(others.values()) <= {NOT_SENT}
    accepted = [path for path, outcome in outcomes.items() if outcome == SUCCESS]
    assert len(portal.spooled()) == len(accepted)
    with Recorder(tmp_path / "recorded") as recorder:
        again = send(stack, accepted, "127.0.0.1", recorder.port, recorder.TITLE, "TEST")
        assert set(again.values()) == {SUCCESS}
    assert corpus.faults(recorder.files, portal.spooled()) == []
    if stack != "dcmjs-dimse":  # it writes texts in UTF-8 and drops private elements
        assert corpus.faults(accepted, portal.spooled()) == []


@stacks
def test_the_same_by_tls(tmp_path: Path, files: list[Path], stack: str) -> None:
    secure = SecurePortal(tmp_path)
    secure.scp.start()
    own, stranger = certificates.own(), certificates.strangers()
    try:
        trusted = Tls(own / "storage.pem", own / "storage.key", own / "ca.pem")
        assert set(to(secure, stack, files[:4], trusted).values()) == {SUCCESS}
        other = Tls(stranger / "storage.pem", stranger / "storage.key", own / "ca.pem")
        assert set(to(secure, stack, files[:2], other).values()) == {UNREACHABLE}
        assert len(secure.spooled()) == 4
    finally:
        secure.scp.stop(5)


@stacks
def test_a_refused_file_is_reported_and_the_next_one_arrives(portal: Portal, stack: str) -> None:
    nameless, *refused = corpus.incomplete()
    outcomes = to(portal, stack, [nameless, *refused, real("CT_small.dcm")])
    assert outcomes[nameless] == NOT_SENT
    assert {outcomes[path] for path in refused} == {"0xA900"}
    assert outcomes[real("CT_small.dcm")] == SUCCESS
    assert len(portal.spooled()) == 1


@stacks
def test_an_abort_and_a_context_that_is_not_accepted_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: str
) -> None:
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)
    first, second, third = made_up_ct(tmp_path, 3, seed=5, size=16).paths
    seen: list[str] = []

    def abort_second(event: Any) -> int:
        seen.append(event.request.AffectedSOPInstanceUID)
        if seen[-1] == corpus.identify(second).sop_uid:
            event.assoc.abort()
        return 0

    with peer(abort_second) as port:
        other = real("MR_small_bigendian.dcm")
        outcomes = send(stack, [first, second, third, other], "127.0.0.1", port, "PEER", "TEST")
    assert outcomes == {first: SUCCESS, second: ABORTED, third: SUCCESS, other: NO_CONTEXT}


@stacks
def test_no_connection_and_no_association_are_reported(stack: str) -> None:
    one = real("CT_small.dcm")
    with peer(lambda _: 0) as port:
        assert send(stack, [one], "127.0.0.1", port, "OTHER", "TEST") == {one: REJECTED}
    assert send(stack, [one], "127.0.0.1", port, "PEER", "TEST") == {one: UNREACHABLE}


def test_every_file_of_the_corpus_is_an_image_of_its_own() -> None:
    paths = corpus.corpus()
    assert len(paths) > 200
    assert len(corpus.by_sop_uid(paths)) == len(paths)
    assert all(corpus.identify(path).complete for path in paths)
    assert sum(len(group) for group in corpus.by_study(paths).values()) == len(paths)
    assert not any(corpus.identify(path).complete for path in corpus.incomplete())
    assert corpus.faults(paths, paths) == []
    assert corpus.missing(paths, paths[1:]) == [corpus.identify(paths[0]).sop_uid]


def changed(tmp_path: Path, path: Path, keyword: str, value: Any) -> Path:
    data_set = pydicom.dcmread(path)
    setattr(data_set, keyword, value) if value is not None else delattr(data_set, keyword)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set.save_as(tmp_path / f"{keyword}.dcm")
    return tmp_path / f"{keyword}.dcm"


def test_a_changed_data_set_is_not_the_same(tmp_path: Path) -> None:
    path = made_up_ct(tmp_path / "ct", 1, seed=6, size=16).paths[0]
    pixels = pydicom.dcmread(path).PixelData
    assert corpus.same_data_set(path, path)
    for keyword, value in (
        ("PatientName", "Other^Name"),
        ("PatientName", None),
        ("PixelData", pixels[:-1] + bytes([pixels[-1] ^ 1])),
        ("PixelData", pixels + bytes(2)),
        ("PixelData", None),
        ("SOPInstanceUID", "1.2.3"),
    ):
        assert not corpus.same_data_set(path, changed(tmp_path, path, keyword, value))


def test_dciodvfy_complains_of_data_sets_not_of_how_they_are_encoded(tmp_path: Path) -> None:
    same = [real(name) for name in ("MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm")]
    assert dciodvfy.complaints(same[0])
    assert [dciodvfy.compare(same[0], path) for path in same] == [[], [], []]
    assert dciodvfy.compare(same[0], changed(tmp_path, same[0], "Modality", None)) != []
