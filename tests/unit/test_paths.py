"""Every path hangs below the folders of the Config, and the share is found in both layouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ddwd.config.paths import Paths, orthanc_share
from ddwd.config.schema import Config, LedgerConfig, Scp

REPOSITORY = Path(__file__).parents[2]


def test_installed_layout() -> None:
    paths = Paths(Config())
    assert paths.spool == Path("/var/lib/ddwd/received_dicom/.ddwd/spool")
    assert paths.incoming.parent == paths.staging.parent == paths.spool.parent
    assert paths.ledger == Path("/var/lib/ddwd/state/ledger")
    assert paths.custody.parent == paths.requests.parent == paths.state
    assert paths.quarantine == Path("/var/lib/ddwd/quarantine")
    assert paths.storage_area("gateway") == Path("/var/lib/ddwd/gateway")
    assert paths.storage_area("storage") == Path("/var/lib/ddwd/storage")
    assert paths.rendered("gateway") == Path("/run/ddwd/orthanc/gateway")
    assert paths.additions("storage") == Path("/etc/ddwd/orthanc/storage.d")
    assert paths.doorbell("gateway") == Path("/run/ddwd/doorbell/gateway")
    assert paths.heartbeat("scp") == Path("/run/ddwd/scp/status.json")


def test_output_dir_elsewhere_takes_its_spool_along() -> None:
    paths = Paths(replace(Config(), output_dir=Path("/srv/dicom")))
    assert paths.output == Path("/srv/dicom")
    assert paths.spool.is_relative_to(paths.output)
    assert paths.state == Path("/var/lib/ddwd/state")


def test_each_of_several_extractors_has_folders_of_its_own_in_the_output_that_they_share() -> None:
    ledger = LedgerConfig(shared="postgresql://ddwd@db/l")
    here, there = (Paths(replace(Config(), ledger=ledger, scp=Scp(aet=name))) for name in ("SCP_A", "SCP_B"))
    assert here.output == there.output
    assert here.spool == Path("/var/lib/ddwd/received_dicom/.ddwd/SCP_A/spool")
    assert there.incoming == Path("/var/lib/ddwd/received_dicom/.ddwd/SCP_B/incoming")


def test_share_of_a_clone_and_of_the_package() -> None:
    assert orthanc_share() == REPOSITORY / "orthanc"
    assert orthanc_share(Path("/usr/lib/ddwd/ddwd")) == Path("/usr/share/ddwd/orthanc")
