"""Three foreign DICOM stacks send the same corpus to the booted machine, plain and by TLS: what is acknowledged is on disk as it was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import Portal, installed
from tests.machine.network import MACHINE_ADDRESS
from tests.senders import corpus, dciodvfy
from tests.senders.recorder import Recorder
from tests.senders.stacks import STACKS, SUCCESS, Tls, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = "/etc/ddwd/tls"
TLS_PORT = 2762
SAMPLE = 8
"""Every eighth file is judged by dciodvfy too."""


@pytest.fixture(scope="module", params=STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    """One stack after the other, each with a machine of its own: they send the same instances."""
    return str(request.param)


@pytest.fixture(scope="module")
def own(deb: Path, stack: str) -> Iterator[Portal]:
    """A machine with a port for TLS beside the plain one."""
    del stack
    with installed(deb) as fresh:
        fresh.machine.run("ddwd tls init && ddwd tls issue CT1")
        fresh.configure("tls:\n  gateway: both\n")
        fresh.wait_active()
        yield fresh


def _send(portal: Portal, stack: str, files: list[Path], tls: Tls | None = None) -> dict[Path, str]:
    port = TLS_PORT if tls else 4242
    return send(stack, files, MACHINE_ADDRESS, port, "ORTHANC1", "STACK", tls, portal.modality.netns_argv())


def _published(portal: Portal) -> list[Path]:
    return [path for path in portal.output.rglob("*.dcm") if ".ddwd" not in path.parts]


def test_what_is_acknowledged_is_on_disk_as_it_was_sent(own: Portal, stack: str, tmp_path: Path) -> None:
    files = corpus.corpus()
    place = own.machine.path(FOLDER)
    trusted = Tls(place / "issued/CT1.pem", place / "issued/CT1.key", place / "ca.pem")
    half = len(files) // 2
    outcomes = _send(own, stack, files[:half]) | _send(own, stack, files[half:], trusted)
    assert set(outcomes) == set(files)
    acknowledged = [path for path, outcome in outcomes.items() if outcome == SUCCESS]
    assert len(acknowledged) > 0.9 * len(files)
    with Recorder(tmp_path / "recorded") as recorder:  # dcmjs-dimse changes data sets before it sends them
        send(stack, acknowledged, "127.0.0.1", recorder.port, recorder.TITLE, "STACK")
        sent = recorder.files
    own.machine.wait_for(
        lambda: not corpus.missing(sent, _published(own)),
        limit=180,
        what="not every acknowledged image is on disk",
    )
    published = _published(own)
    assert corpus.faults(sent, published) == []
    there = corpus.by_sop_uid(published)
    for path in sent[::SAMPLE]:
        (found,) = there[str(corpus.identify(path).sop_uid)]
        assert dciodvfy.compare(path, found) == []


def test_what_cannot_be_stored_is_refused_with_a_status_that_says_so(own: Portal, stack: str) -> None:
    nameless, *refused = corpus.incomplete()
    outcomes = _send(own, stack, [nameless, *refused])
    assert {outcomes[path] for path in refused} <= {"0xC000", "0xA900"}
    text = own.machine.run("journalctl -t ddwd-audit DDWD_EVENT=image-refused -o cat --no-pager").stdout
    assert "STACK at " in text
