"""`ddwd doctor`: each part that is not well is named with what to do, one never hides another; and the self test's own promises."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import certifi
import pytest

from ddwd.cli import doctor as cli
from ddwd.config.parsers import Sender
from ddwd.config.paths import Paths
from ddwd.config.routing import Route
from ddwd.config.schema import Config
from ddwd.core.audit import Audit, Event
from ddwd.core.errors import ConfigError, PeerDownError
from ddwd.core.model import SELF_TEST_PATIENT
from ddwd.core.problem import Severity, is_well
from ddwd.provisioning import credentials, orthanc_config
from ddwd.provisioning.port_holders import Holder
from ddwd.status.certificates import expiry_of
from ddwd.status.chain import ChainState
from ddwd.status.check_context import ProbeContext
from ddwd.status.doctor import CHECKS, examine
from ddwd.status.report import Heartbeat, OrthancState, VolumeState
from ddwd.status.self_test import make
from ddwd.status.units import UNITS, Unit
from ddwd.store.operator_requests import Request
from ddwd.store.status_files import (
    HARMLESS,
    AcceptorStatus,
    LostStatus,
    RefusalCount,
    RefusalKind,
    SelfTestResult,
    SenderStatus,
    SignerStatus,
    SweepStatus,
)
from tests.unit.fakes import FakeClock, image
from tests.unit.portal import Portal, names
from tests.unit.test_flow import report

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.core.problem import Problem
    from ddwd.status.doctor import Examination


class _Node:
    """An Orthanc that is well, until told otherwise."""

    def __init__(self, name: str, clock: FakeClock) -> None:
        self.name = name
        self._clock = clock
        self.loaded = ["explorer.js", "dicom-web", "postgresql-index"]
        self.skew = timedelta(0)
        self.down = False

    def _answer(self) -> None:
        if self.down:
            raise PeerDownError(f"{self.name} does not answer")

    def system(self) -> dict[str, Any]:
        self._answer()
        return {}

    def plugins(self) -> list[str]:
        self._answer()
        return self.loaded

    def now(self) -> datetime:
        self._answer()
        return self._clock.utc() + self.skew

    def reaches(self, _server: str) -> None:
        self._answer()

    def echoes(self, _modality: str) -> None:
        self._answer()


class Machine:
    """A sound machine; each test spoils one thing."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.login = credentials.generate()
        base = Config()
        self.config = replace(
            base,
            output_dir=folder / "received_dicom",
            data_dir=folder,
            run_dir=folder / "run",
            credentials_file=folder / "etc" / "credentials.json",
        )
        self.paths = Paths(self.config)
        for path in (self.paths.output, self.paths.state, self.paths.quarantine, folder / "etc"):
            path.mkdir(mode=0o750, parents=True)
        credentials.write(self.config.credentials_file, self.login)
        self.settings = folder / "etc" / "ddwd.yaml"
        self.settings.write_text("# as Debian's packages leave files: open to every user\n")
        self.settings.chmod(0o644)
        for node in ("gateway", "storage"):
            self.render(node)
        self.report = report(
            self_test=SelfTestResult(ok=True, text="passed"), chain=ChainState(SignerStatus(entries=7))
        )
        self.gateway, self.storage = _Node("gateway", self.clock), _Node("storage", self.clock)
        self.said = {"is-enabled": "enabled\n"}
        self.silent: set[str] = set()
        self.synchronised: bool | None = True
        self.database_says = ""
        self.ends = self.clock.utc() + timedelta(days=300)
        self.has_firewall: bool | None = True
        self.holders: dict[int, list[Holder]] = {}

    def render(self, node: Any, **changes: Any) -> None:
        """What that Orthanc runs with."""
        folder = self.paths.rendered(node)
        folder.mkdir(parents=True, exist_ok=True)
        tree = json.loads(orthanc_config.render(self.config, self.login, node)) | changes
        (folder / "orthanc.json").write_text(json.dumps(tree))

    def add(self, **addition: Any) -> None:
        """An addition to the gateway; it runs with it."""
        folder = self.paths.additions("gateway")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "own.json").write_text(json.dumps(addition))
        self.render("gateway")

    def _ask_database(self, _node: str) -> None:
        if self.database_says:
            raise PeerDownError(self.database_says)

    def examine(self) -> list[Problem]:
        """All problems, in the order of the parts."""
        found = self.examination()
        return [one for part in CHECKS for one in found.of(part)]

    def examination(self) -> Examination:
        return examine(self.context())

    def context(self) -> ProbeContext:
        return ProbeContext(
            config=self.config,
            report=self.report,
            nodes={"gateway": self.gateway, "storage": self.storage},
            login=self.login,
            systemctl=lambda words: self.said.get(words[0]),
            echo=lambda part: part not in self.silent,
            ask_database=self._ask_database,
            clock_is_synchronised=lambda: self.synchronised,
            expiry=lambda _path: self.ends,
            has_firewall=lambda: self.has_firewall,
            holders=lambda port: self.holders.get(port, []),
            clock=self.clock,
            settings=(self.settings, self.settings.with_name("absent")),
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_chain_that_is_broken_is_named(machine: Machine) -> None:
    problem = "the chain is broken, and no event is entered any more: entry 7 was changed"
    machine.report = replace(machine.report, chain=ChainState(SignerStatus(), problem))
    (found,) = [one for one in machine.examine() if one.part == "chain"]
    assert (found.severity, found.cause, found.remedy) == (
        Severity.BROKEN,
        problem,
        "journalctl -u ddwd-signer -n 50",
    )


def _worst(machine: Machine) -> dict[str, Severity | None]:
    """The worst of each part; None where it is well."""
    found = machine.examination()
    return {
        part: None if part in found.fine else max(one.severity for one in found.of(part)) for part in CHECKS
    }


def test_an_external_server_that_refuses_is_named_with_its_words_and_without_the_password(
    machine: Machine,
) -> None:
    secret = "made up"  # noqa: S105 - it is
    database = replace(
        machine.config.database, url="postgresql://db1,db2/?sslmode=verify-full", password=secret
    )
    machine.config = replace(machine.config, database=database)
    machine.database_says = "PostgreSQL: FATAL: no pg_hba.conf entry"
    found = [one for one in machine.examine() if one.part == "PostgreSQL"]
    assert [one.severity for one in found] == [Severity.BROKEN, Severity.BROKEN]
    assert "the index of gateway at db1,db2: PostgreSQL: FATAL: no pg_hba.conf entry" in found[0].cause
    assert secret not in str(found)


def test_a_sound_machine_has_a_line_for_each_part_and_nothing_to_do(machine: Machine) -> None:
    worst = _worst(machine)
    assert set(worst.values()) <= {None, Severity.NOTE, Severity.WARN}
    assert [part for part, severity in worst.items() if severity is Severity.WARN] == [
        "versions",  # Debian's 1.12.7
        "senders",  # anyone may send until there is a list
    ]
    text = cli.render(machine.examination())
    assert text.splitlines()[-1] == "2 warnings"
    assert [part for part in CHECKS if f" {part} " not in text] == []
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 30


def _unit_failed(machine: Machine) -> None:
    units = tuple(Unit(name, "failed" if name == "ddwd-scp" else "active", "", 0, "") for name in UNITS)
    machine.report = replace(machine.report, units=units)


def _database_stopped(machine: Machine) -> None:
    machine.report = replace(machine.report, database="PostgreSQL does not answer on /run/x")


def _studies_wait(machine: Machine) -> None:
    machine.report = replace(machine.report, counts={"waiting": 2})


def _two_patients(machine: Machine) -> None:
    machine.report = replace(machine.report, two_patients=1)


def _running_with_overwriting(machine: Machine) -> None:
    machine.render("gateway", OverwriteInstances=True)


def _bad_addition(machine: Machine) -> None:
    folder = machine.paths.additions("gateway")
    folder.mkdir(parents=True)
    (folder / "own.json").write_text('{"MaximumStorageSize": 100}')


def _orthanc_away(machine: Machine) -> None:
    server = OrthancState(
        "storage", "ORTHANC2", problem="storage does not answer", log="journalctl -u ddwd-storage -n 50"
    )
    machine.report = replace(machine.report, servers=(machine.report.servers[0], server))
    machine.storage.down = True


def _no_dicomweb(machine: Machine) -> None:
    machine.gateway.loaded = []


def _wrong_database(machine: Machine) -> None:
    servers = (replace(machine.report.servers[0], database="SQLite"), machine.report.servers[1])
    machine.report = replace(machine.report, servers=servers)


def _deaf_port(machine: Machine) -> None:
    machine.silent = {"storage"}


def _hop_broken(machine: Machine) -> None:
    machine.storage.down = True


def _stale_heart(machine: Machine) -> None:
    hearts = (machine.report.hearts[0], Heartbeat("extractor", 90.0, problem="the heartbeat is stale"))
    machine.report = replace(machine.report, hearts=hearts)


def _full_disk(machine: Machine) -> None:
    volume = VolumeState("output", "/x", problem="/x: only 1 B free")
    machine.report = replace(machine.report, volumes=(volume,))


def _open_output(machine: Machine) -> None:
    machine.paths.output.chmod(0o755)


def _missing_quarantine(machine: Machine) -> None:
    machine.paths.quarantine.rmdir()


def _open_credentials(machine: Machine) -> None:
    machine.config.credentials_file.chmod(0o644)


def _open_settings_with_a_password(machine: Machine) -> None:
    machine.config = replace(machine.config, mail=replace(machine.config.mail, password="made up"))  # noqa: S106 - it is


def _clock_off(machine: Machine) -> None:
    machine.storage.skew = timedelta(minutes=3)


def _certificate_expired(machine: Machine) -> None:
    machine.add(DicomTlsCertificate="/etc/ddwd/own.pem")
    machine.ends = machine.clock.utc() - timedelta(days=1)


def _images_lost(machine: Machine) -> None:
    lost = LostStatus(2, 5, 1, "2026-01-02T03:00:00.000Z", "1.2.3")
    machine.report = replace(machine.report, lost=lost)


def _self_test_failed(machine: Machine) -> None:
    machine.report = replace(machine.report, self_test=SelfTestResult(ok=False, text="nothing came"))


@pytest.mark.parametrize(
    ("spoil", "part", "words"),
    [
        (_unit_failed, "units", "ddwd-scp is failed"),
        (_database_stopped, "PostgreSQL", "PostgreSQL does not answer"),
        (_running_with_overwriting, "configuration", "OverwriteInstances"),
        (_bad_addition, "settings", "MaximumStorageSize"),
        (_orthanc_away, "Orthancs", "storage does not answer"),
        (_no_dicomweb, "Orthancs", "DICOMweb plugin"),
        (_wrong_database, "Orthancs", "SQLite"),
        (_deaf_port, "C-ECHO", "ORTHANC2 does not answer a C-ECHO on port 4243"),
        (_hop_broken, "hops", "ORTHANC2 does not reach the SCP"),
        (_stale_heart, "daemons", "stale"),
        (_full_disk, "disk", "only 1 B free"),
        (_open_output, "permissions", "is open to every user"),
        (_missing_quarantine, "permissions", "is missing"),
        (_open_credentials, "permissions", "credentials.json is open"),
        (_open_settings_with_a_password, "permissions", "ddwd.yaml is open"),
        (_clock_off, "clock", "storage's clock is 3 min off"),
        (_certificate_expired, "certificates", "/etc/ddwd/own.pem has expired"),
        (_self_test_failed, "self test", "nothing came"),
        (_studies_wait, "waiting", "2 studies wait after a failure"),
        (_two_patients, "waiting", "1 study has the UID of another patient's study"),
        (
            _images_lost,
            "waiting",
            "2 studies are missing images that were received, 5 on ORTHANC1 and 1 on ORTHANC2, as 1.2.3",
        ),
    ],
)
def test_what_is_broken_is_named_with_what_to_do(
    machine: Machine, spoil: Callable[[Machine], None], part: str, words: str
) -> None:
    spoil(machine)
    (found,) = [one for one in machine.examine() if words in one.cause and one.part == part]
    assert found.severity is Severity.BROKEN
    assert found.remedy
    assert not is_well(machine.examination().problems)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quarantine": 2}, "2 images wait for you in quarantine"),
        ({"paused": True}, "paused"),
        (
            {"swept": SweepStatus(ended_at="2025-12-20T00:00:00Z")},
            "not all studies were compared since 2025-12-20",
        ),
        (
            {"swept": SweepStatus(ended_at="", began_at="2025-12-20T00:00:00Z")},
            "not all studies were compared since",
        ),
        ({"volumes": (VolumeState("output", "/x", level="warn"),)}, "gets short of room"),
    ],
)
def test_what_an_operator_should_look_at_is_a_warning(
    machine: Machine, changes: dict[str, Any], words: str
) -> None:
    machine.report = replace(machine.report, **changes)
    assert [one.severity for one in machine.examine() if words in one.cause] == [Severity.WARN]


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        (lambda paths: paths.requests, "2 requests were damaged and ignored"),
        (
            lambda paths: paths.conflicts("gateway"),
            "2 objects put aside by ORTHANC1 were damaged and ignored",
        ),
        (
            lambda paths: paths.conflicts("storage"),
            "2 objects put aside by ORTHANC2 were damaged and ignored",
        ),
        (lambda paths: paths.commitments, "2 requests for storage commitment were damaged and ignored"),
        (lambda paths: paths.hooks / "waiting", "2 notices for a hook were damaged and ignored"),
        (lambda paths: paths.deliveries, "2 requests to retry were damaged and ignored"),
    ],
)
def test_what_a_daemon_put_aside_is_a_warning(
    machine: Machine, folder: Callable[[Paths], Path], words: str
) -> None:
    place = folder(machine.paths)
    place.mkdir(parents=True)
    os.mkfifo(place / "1.bad")
    (place / "2.bad").mkdir()
    [found] = [one for one in machine.examine() if words in one.cause]
    assert (found.severity, found.part) == (Severity.WARN, "waiting")
    assert str(place) in found.remedy


def _a_hook_of_anyone(machine: Machine) -> None:
    hook = machine.settings.with_name("finished")
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o777)
    machine.config = replace(machine.config, routes=(Route("research", run=hook),))


def test_a_hook_that_anyone_can_change_is_broken(machine: Machine) -> None:
    _a_hook_of_anyone(machine)
    [found] = [one for one in machine.examine() if "can be changed by others than root" in one.cause]
    assert (found.severity, found.part) == (Severity.BROKEN, "settings")


def test_what_this_user_may_not_look_at_is_said_and_hides_nothing(machine: Machine) -> None:
    machine.login = None  # type: ignore[assignment]
    assert {one.part for one in machine.examine() if "sudo" in one.remedy} >= {"settings", "configuration"}


def test_a_self_test_is_a_study_of_two_series_with_fresh_uids(tmp_path: Path) -> None:
    first, files = make(tmp_path)
    again, _ = make(tmp_path)
    assert first != again
    assert len(files) == 6


def test_only_a_self_test_can_be_forgotten_and_leaves_nothing(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    ours = [image(1, number, patient=SELF_TEST_PATIENT) for number in (1, 2)]
    theirs = image(2)
    portal.deliver(*ours, theirs)
    portal.run(20)
    for study in (ours[0].study_id, theirs.study_id):
        portal.gateway.delete_study(study)
        portal.storage.delete_study(study)
        portal.requests.submit(Request("forget", study))
    portal.run(400)
    assert portal.published() == names(theirs)
    assert list(portal.custody.studies()) == [theirs.study_id]
    assert not (portal.paths.output / SELF_TEST_PATIENT).exists()
    assert portal.quarantine.count() == 0
    assert Event.VANISHED not in [event for event, _ in portal.events]


def test_an_audit_of_a_self_test_names_no_patient() -> None:
    told: list[dict[str, str]] = []
    Audit(lambda _event, _message, fields: told.append(fields)).record(Event.SELF_TEST, "passed", status="ok")
    assert told == [{"DDWD_EVENT": "self-test", "DDWD_STATUS": "ok"}]


def test_the_expiry_of_a_certificate_is_read_from_its_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no certificate"):
        expiry_of(tmp_path / "none.pem")
    bad = tmp_path / "bad.pem"
    bad.write_text("-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match="no certificate"):
        expiry_of(bad)
    roots = Path(certifi.where()).read_text(encoding="ascii")
    first = roots[roots.index("-----BEGIN") : roots.index("-----END")] + "-----END CERTIFICATE-----\n"
    good = tmp_path / "good.pem"
    good.write_text(first)
    assert expiry_of(good) > datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("wanted", "there", "level"), [
    ("false", False, None), ("true", True, None), ("true", False, Severity.BROKEN), ("false", True, Severity.WARN),
    ("auto", True, None), ("auto", False, Severity.NOTE), ("auto", None, None), ("true", None, None),
])  # fmt: skip
def test_the_firewall_is_held_against_the_setting(
    machine: Machine, level: Severity | None, wanted: Literal["auto", "true", "false"], there: bool | None
) -> None:
    machine.config = replace(machine.config, network=replace(machine.config.network, firewall=wanted))
    machine.has_firewall = there
    assert _worst(machine)["firewall"] is level


def test_who_holds_a_port_of_the_portal_is_named(machine: Machine) -> None:
    machine.holders = {4242: [Holder("ddwd-acceptor")], 8042: [Holder("root")]}
    assert _worst(machine)["ports"] is None
    machine.holders[4243] = [Holder("nobody", "python3 (process 12)")]
    (found,) = [one for one in machine.examine() if one.part == "ports"]
    assert found.severity is Severity.BROKEN
    assert "port 4243 (storage.dicom_port) is held by python3 (process 12), user nobody" in found.cause
    assert "ss -ltnp 'sport = :4243'" in found.remedy


@pytest.mark.parametrize(("up_after", "left"), [(0, 120.0), (7, 113.0), (500, 0.0)])
def test_after_an_upgrade_the_self_test_waits_for_every_hop_and_no_longer_than_it_was_given(
    up_after: float, left: float
) -> None:
    clock = FakeClock()
    assert cli.until_up(lambda: clock.now >= 1000 + up_after, clock, clock.advance, 120.0) == left


def _refused(kind: RefusalKind, status: str = "") -> RefusalCount:
    return RefusalCount(kind, "made up", 7, "2026-01-02T03:04:05.000Z", status)


def _of_senders(machine: Machine, acceptor: AcceptorStatus) -> list[Problem]:
    machine.config = replace(machine.config, senders=(Sender("CT1"),))
    machine.report = replace(machine.report, acceptor=Heartbeat("acceptor", 1.0, acceptor))
    return [one for one in machine.examine() if one.part == "senders"]


@pytest.mark.parametrize("kind", [kind for kind in RefusalKind if kind not in HARMLESS])
def test_a_sender_that_was_refused_in_the_last_hour_is_named_with_what_to_do(
    machine: Machine, kind: RefusalKind
) -> None:
    senders = (SenderStatus("CT1", "10.0.0.5", reasons=(_refused(kind, "0xC000"),)),)
    (found,) = _of_senders(machine, AcceptorStatus(senders=senders))
    assert found.severity is Severity.WARN
    assert found.cause == f"CT1 at 10.0.0.5: 7 x {kind}, 0xC000: made up; last 2026-01-02 03:04 UTC"
    assert "docs/" in found.remedy


def test_what_keeps_no_image_away_is_no_problem(machine: Machine) -> None:
    senders = (SenderStatus("CT1", "10.0.0.5", reasons=tuple(map(_refused, HARMLESS))),)
    assert _of_senders(machine, AcceptorStatus(associations=479, limit=600, senders=senders)) == []


def test_associations_that_run_out_and_an_address_that_is_held_off_are_problems(machine: Machine) -> None:
    found = _of_senders(machine, AcceptorStatus(associations=480, limit=600, held_off={"10.0.0.5": 300}))
    assert [one.severity for one in found] == [Severity.BROKEN, Severity.BROKEN]
    assert "480 of 600 associations are open" in found[0].cause
    assert found[1].cause.startswith("10.0.0.5 is held off for 5 min more")
