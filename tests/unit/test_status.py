"""`ddwd status` over fakes at its ports: what it says is wrong, that one silent source hides no other, and the screen's bounds."""

from __future__ import annotations

import argparse
import io
import json
import threading
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.cli import status
from ddwd.config.paths import Paths
from ddwd.config.schema import Config, OrthancNode
from ddwd.core import disk_space
from ddwd.core.audit import Audit
from ddwd.core.clock import stamp
from ddwd.core.disk_space import Space
from ddwd.core.errors import PeerDownError
from ddwd.core.problem import Severity, is_well
from ddwd.core.problem_codes import Code
from ddwd.extractor.quarantine import Quarantine, QuarantinedObject
from ddwd.provisioning import credentials
from ddwd.status import connections, postgresql, study_lookup, units
from ddwd.status import report as view
from tests.unit.fakes import FakeClock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddwd.config.paths import Daemon
    from ddwd.provisioning.credentials import Credentials

_LONG_UID = "1.2.826.0.1.3680043.8.498." + "9" * 38  # 64 characters, the most that PS3.5 allows
GIB = 1024**3
_PATIENT = "DOE-4711"


class _View:
    """An Orthanc that answers, is down, or hangs."""

    def __init__(self, node: OrthancNode, *, down: bool = False, hang: threading.Event | None = None) -> None:
        self._node = node
        self._down = down
        self._hang = hang

    def system(self) -> dict[str, Any]:
        if self._hang is not None:
            self._hang.wait(20)
        if self._down:
            raise PeerDownError(f"{self._node.name} does not answer on {self._node.url} (ConnectTimeout)")
        plugin = "/usr/share/orthanc/plugins/libOrthancPostgreSQLIndex.so"
        return {"Version": "1.12.7", "DicomAet": self._node.aet, "DatabaseBackendPlugin": plugin}

    def statistics(self) -> dict[str, Any]:
        return {"CountStudies": 1234, "CountInstances": 5678901, "TotalDiskSize": "1"}


@dataclass
class Machine:
    """A portal that is well, until told otherwise."""

    config: Config
    clock: FakeClock = field(default_factory=FakeClock)
    down: set[str] = field(default_factory=set)
    hang: dict[str, threading.Event] = field(default_factory=dict)
    systemd: bool = True
    units: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)
    connected: int = 0
    database: str = ""

    def systemctl(self, arguments: Sequence[str]) -> str | None:
        self.asked.append(list(arguments))
        if not self.systemd:
            return None
        blocks = []
        for name in units.UNITS:
            properties = {"Id": f"{name}.service", "LoadState": "loaded", "ActiveState": "active"}
            properties |= {"SubState": "running", "NRestarts": "0", "StatusText": ""}
            properties |= self.units.get(name, {})
            blocks.append("".join(f"{key}={value}\n" for key, value in properties.items()))
        return "\n".join(blocks)

    def orthanc(self, node: OrthancNode, login: Credentials) -> _View:
        assert login.login(node.name)[1]
        return _View(node, down=node.name in self.down, hang=self.hang.get(node.name))

    def beat(self, daemon: Daemon, *, age: float = 1.0, **facts: object) -> None:
        path = Paths(self.config).heartbeat(daemon)
        path.parent.mkdir(parents=True, exist_ok=True)
        moment = stamp(self.clock.utc() - timedelta(seconds=age))
        path.write_text(json.dumps({"at": moment, "updated": moment, **facts}))

    def report(self) -> view.Report:
        return view.collect(
            self.config,
            view.ReportSources(
                systemctl=self.systemctl,
                orthanc=self.orthanc,
                clock=self.clock,
                patience=0.05,
                connected=lambda _port: self.connected,
                database=lambda _config: self.database,
            ),
        )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    plenty = Space(1, 90 * GIB, 100 * GIB, 0, 0)  # how full the disk of the tests is does not matter
    monkeypatch.setattr(disk_space, "space_of", lambda path: replace(plenty, device=path.stat().st_dev))
    config = replace(
        Config(),
        output_dir=tmp_path / "data" / "received_dicom",
        data_dir=tmp_path / "data",
        run_dir=tmp_path / "run",
        credentials_file=tmp_path / "credentials.json",
    )
    config.output_dir.mkdir(parents=True)
    credentials.write(config.credentials_file, credentials.generate())
    made = Machine(config)
    made.beat("acceptor", associations=3, limit=600)
    made.beat("scp", alive=True, received=12, received_bytes=3_400_000, refused=0, last_received=None)
    made.beat(
        "extractor",
        counts={},
        totals={"studies": 2, "instances": 1},
        peers={"gateway": "ok", "storage": "ok"},
    )
    return made


def _flight(
    uid: str, state: str = "retrieving", reason: str = "3 images are not on disk yet"
) -> dict[str, Any]:
    return {"study_uid": uid, "state": state, "reason": reason, "instances": 300, "on_disk": 297}


def _published(uid: str) -> dict[str, Any]:
    return {
        "state": "published",
        "study_uid": uid,
        "folder": f"{_PATIENT}/{uid}",
        "instances": 100,
        "revision": 1,
        "published_at": "2026-01-02T03:04:00.000Z",
        "seconds": 4.25,
    }


def _wrong(report: view.Report) -> tuple[str, ...]:
    """The problems, each in one line, without their consequences."""
    return tuple(one.line for one in report.problems)


def test_all_is_well(machine: Machine) -> None:
    report = machine.report()
    assert _wrong(report) == ()
    text = status.render(report)
    assert "all is well" in text.splitlines()[0]
    assert "ORTHANC1         1.12.7   PostgreSQL     1,234  5,678,901" in text
    assert "12 received (3.4 MB), 0 refused, last never" in text
    assert "2 studies published, 1 image retrieved, 0 forwarded again" in text
    assert "BROKEN" not in text
    assert machine.asked[0][:2] == ["show", f"--property={units._PROPERTIES}"]


def test_failed_unit_is_named_with_the_command_that_shows_why(machine: Machine) -> None:
    machine.units["ddwd-storage"] = {"ActiveState": "failed", "SubState": "failed", "NRestarts": "7"}
    report = machine.report()
    assert _wrong(report) == ("ddwd-storage is failed; do: journalctl -u ddwd-storage -n 50",)
    assert "failed (failed)    7 restarts" in status.render(report)


def test_what_stops_postgresql_is_told_before_what_stops_with_it(machine: Machine) -> None:
    machine.database = (
        "PostgreSQL does not answer on /var/run/postgresql/.s.PGSQL.5432 (No such file or directory)"
    )
    machine.units["ddwd-storage"] = {"ActiveState": "failed"}
    machine.down = {"storage"}
    (cause,) = machine.report().problems
    assert cause.line == f"{machine.database} (2 consequences); do: systemctl start postgresql"
    assert [one.code for one in cause.consequences] == [Code.UNIT_DOWN, Code.ORTHANC_SILENT]


def test_unit_that_is_not_installed_or_still_starting_is_not_well(machine: Machine) -> None:
    machine.units["ddwd-scp"] = {"LoadState": "not-found", "ActiveState": "inactive"}
    machine.units["ddwd-gateway"] = {"ActiveState": "activating", "SubState": "auto-restart"}
    states = {unit.name: unit.active for unit in machine.report().units if not unit.is_well}
    assert states == {"ddwd-gateway": "activating", "ddwd-scp": "not-found"}


def test_unit_that_the_settings_do_not_need_is_well_and_says_so(machine: Machine) -> None:
    machine.units["ddwd-hooks"] = {
        "ActiveState": "inactive",
        "SubState": "dead",
        "Result": "exec-condition",
    }
    report = machine.report()
    assert _wrong(report) == ()
    assert "not needed by the settings" in status.render(report)


def test_unit_that_was_stopped_is_not_taken_for_one_that_is_not_needed(machine: Machine) -> None:
    machine.units["ddwd-hooks"] = {"ActiveState": "inactive", "SubState": "dead", "Result": "success"}
    assert [unit.name for unit in machine.report().units if not unit.is_well] == ["ddwd-hooks"]


def test_status_text_of_the_daemons_is_shown(machine: Machine) -> None:
    machine.units["ddwd-extractor"] = {"StatusText": "3 studies in flight, a=b"}
    assert "3 studies in flight, a=b" in status.render(machine.report())


def test_without_systemd_the_heartbeats_do(machine: Machine) -> None:
    machine.systemd = False
    report = machine.report()
    assert report.units == ()
    assert _wrong(report) == ()
    assert "not under systemd" in status.render(report)


def test_units_of_the_machine_are_not_those_of_ddwd_try(machine: Machine) -> None:
    machine.config = replace(machine.config, database=replace(machine.config.database, engine="sqlite"))
    assert machine.report().units == ()
    assert machine.asked == []


def test_orthanc_that_is_down_says_so_and_the_other_is_shown(machine: Machine) -> None:
    machine.down = {"storage"}
    report = machine.report()
    assert [server.studies for server in report.servers] == [1234, 0]
    assert _wrong(report) == (
        "storage does not answer on http://127.0.0.1:8043 (ConnectTimeout); do: journalctl -u ddwd-storage -n 50",
    )


def test_orthanc_that_hangs_does_not_hold_up_the_rest(machine: Machine) -> None:
    machine.hang["gateway"] = threading.Event()
    report = machine.report()
    machine.hang["gateway"].set()
    assert report.servers[0].problem.startswith("gateway does not answer on http://127.0.0.1:8042")
    assert report.servers[1].version == "1.12.7"


def test_without_credentials_the_hint_is_given_once_and_the_rest_is_shown(machine: Machine) -> None:
    machine.config.credentials_file.unlink()
    report = machine.report()
    assert len(_wrong(report)) == 1
    assert "systemctl start ddwd" in _wrong(report)[0]
    assert report.units
    assert report.hearts[0].scp.received == 12


@pytest.mark.parametrize(("age", "is_stale"), [(9.0, False), (11.0, True), (7200.0, True)])
@pytest.mark.parametrize("daemon", ["scp", "extractor"])
def test_stale_heartbeat(machine: Machine, daemon: Daemon, age: float, *, is_stale: bool) -> None:
    machine.beat(daemon, age=age)
    report = machine.report()
    assert bool(_wrong(report)) is is_stale
    assert ("STALE" in status.render(report)) is is_stale
    assert [heart.is_stale for heart in report.hearts if heart.daemon == daemon] == [is_stale]
    if is_stale:
        assert f"heartbeat of the {daemon} is stale" in _wrong(report)[0]


def test_idle_extractor_with_a_long_poll_interval_is_not_stale(machine: Machine) -> None:
    machine.config = replace(machine.config, poll_interval=60.0)
    machine.beat("extractor", age=70.0)
    assert _wrong(machine.report()) == ()


def test_clock_set_back_gives_no_negative_age(machine: Machine) -> None:
    machine.beat("scp", age=-30.0)
    assert machine.report().hearts[0].age == 0.0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"at": "yesterday"}', '{"at": "2026-01-01T00:00:00"}'])
def test_damaged_heartbeat_is_said(machine: Machine, content: str) -> None:
    Paths(machine.config).heartbeat("scp").write_text(content)
    report = machine.report()
    assert "is damaged" in _wrong(report)[0]
    assert "scp       none" in status.render(report)


def test_daemon_that_never_ran(machine: Machine) -> None:
    Paths(machine.config).heartbeat("extractor").unlink()
    report = machine.report()
    assert "does not run" in _wrong(report)[0]
    assert "last studies: none" in status.render(report)


def test_scp_deaf_to_its_own_echo(machine: Machine) -> None:
    machine.beat("scp", alive=False)
    assert _wrong(machine.report()) == (
        "the scp does not answer its own C-ECHO; do: journalctl -u ddwd-scp -n 50",
    )


def test_waiting_studies_are_wrong_and_come_first(machine: Machine) -> None:
    rows = [_flight(f"1.2.{n}") for n in range(9)] + [_flight("1.2.99", "waiting", "0xA702: refused")]
    machine.beat("extractor", counts={"retrieving": 9, "waiting": 1}, in_flight=rows)
    report = machine.report()
    assert _wrong(report) == ("1 study waits after a failure, and will be tried again; do: ddwd trace STUDY",)
    lines = status.render(report).splitlines()
    at = lines.index("studies in flight: 9 retrieving, 1 waiting")
    assert lines[at + 1 : at + 3] == ["  1.2.99", "    297/300 on disk, waiting: 0xA702: refused"]
    assert "  and 5 more, see --json" in lines


def test_a_study_whose_images_storage_refuses_is_wrong_and_comes_first_with_the_reason(
    machine: Machine,
) -> None:
    why = "1 images are not on storage yet; 1 refused: HTTP 400 for /instances: Bad file format"
    refused = _flight("1.2.99", "forwarding", why) | {"blocker": "refused"}
    machine.beat(
        "extractor",
        counts={"forwarding": 10},
        in_flight=[*(_flight(f"1.2.{n}", "forwarding") for n in range(9)), refused],
    )
    report = machine.report()
    assert _wrong(report) == ("1 study has images that ORTHANC2 does not take; do: ddwd trace STUDY",)
    lines = status.render(report).splitlines()
    at = lines.index("studies in flight: 10 forwarding")
    assert lines[at + 1] == "  1.2.99"
    assert " ".join(map(str.strip, lines[at + 2 : at + 4])) == f"297/300 on disk, forwarding: {why}"


@pytest.mark.parametrize(
    ("ended", "words"),
    [("", "not yet all of them"), ("2026-01-02T03:00:00Z", "last at 2026-01-02 03:00 UTC")],
)
def test_how_far_the_comparison_of_all_studies_is(machine: Machine, ended: str, words: str) -> None:
    machine.beat("extractor", swept={"compared": 1000, "began_at": "2026-01-02T03:00:00Z", "ended_at": ended})
    (line,) = [line for line in status.render(machine.report()).splitlines() if line.startswith("compared")]
    assert "1,000 of 1,234 studies" in line
    assert words in line


def test_peer_that_only_the_extractor_cannot_reach(machine: Machine) -> None:
    machine.beat("extractor", peers={"gateway": "gateway: HTTP 401 for /changes", "storage": "ok"})
    assert _wrong(machine.report()) == (
        "for the extractor: gateway: HTTP 401 for /changes; do: journalctl -u ddwd-extractor -n 50",
    )
    machine.down = {"gateway"}
    assert len(_wrong(machine.report())) == 1


def test_a_wide_terminal_shows_whole_lines(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "a reason that goes on, " * 5
    machine.units["ddwd-scp"] = {"StatusText": long}
    assert long.strip() not in status.render(machine.report())
    monkeypatch.setenv("COLUMNS", "200")
    assert long.strip() in status.render(machine.report())


def test_screen_keeps_80_columns_and_cuts_no_uid(machine: Machine) -> None:
    long = "a reason that goes on and on, " * 9
    machine.units["ddwd-scp"] = {"StatusText": long}
    machine.down = {"gateway", "storage"}
    machine.beat(
        "extractor",
        age=50.0,
        counts={"arriving": 30},
        in_flight=[_flight(_LONG_UID, reason=long)] * 30,
        recent=[_published(_LONG_UID), _published("1.2.3")] * 10,
    )
    lines = status.render(machine.report()).splitlines()
    folder = str(machine.config.output_dir)
    assert [line for line in lines if len(line) > 80 and folder not in line] == []
    assert len(lines) < 65
    assert f"    {_LONG_UID}" in lines
    assert "  2026-01-02 03:04 UTC    100     4.2  1.2.3" in lines


def as_json(report: view.Report) -> str:
    return json.dumps(status.as_json(report))


@pytest.mark.parametrize("show", [status.render, as_json])
def test_patient_is_never_shown(machine: Machine, show: Any) -> None:
    machine.beat("extractor", recent=[_published("1.2.3")])
    shown = show(machine.report())
    assert "1.2.3" in shown
    assert _PATIENT not in shown


def test_json_has_the_same_data(machine: Machine) -> None:
    machine.down = {"storage"}
    machine.beat("extractor", counts={"arriving": 7}, in_flight=[_flight("1.2.3")] * 7)
    report = machine.report()
    found = json.loads(as_json(report))
    assert found["well"] is False
    assert found["problems"] == [one.as_json() for one in report.problems]
    assert [server["name"] for server in found["servers"]] == ["gateway", "storage"]
    assert len(found["in_flight"]) == found["counts"]["arriving"] == 7
    assert {unit["name"] for unit in found["units"]} == set(units.UNITS)
    assert found["volumes"][0]["total"] > 0


def test_little_room_is_wrong(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "space_of", lambda _path: Space(1, 3 * GIB, 100 * GIB, 0, 0))
    wrong = _wrong(machine.report())
    assert len(wrong) == 1  # output and data are one volume here
    assert "stops taking images" in wrong[0]


def _watched(machine: Machine, **more: object) -> dict[str, Any]:
    """A row of the extractor's: output, state and database on one volume."""
    output, state = str(machine.config.output_dir), str(machine.config.data_dir / "state")
    row = {
        "path": output,
        "paths": [output, state, "/var/lib/postgresql"],
        "free": 90 * GIB,
        "total": 100 * GIB,
    }
    return {**row, "level": "ok", "stops": [], "hours_left": None, **more}


def test_the_volumes_are_those_the_extractor_watches(machine: Machine) -> None:
    machine.beat("extractor", disk=[_watched(machine), _watched(machine, path="/srv", paths=["/srv"])])
    report = machine.report()
    assert [(volume.use, volume.level) for volume in report.volumes] == [
        ("output, data, database", "ok"),
        ("database", "ok"),
    ]
    assert _wrong(report) == ()


def test_a_volume_that_fills_up_says_in_how_long(machine: Machine) -> None:
    machine.beat("extractor", disk=[_watched(machine, level="warn", free=7 * GIB, hours_left=5.2)])
    report = machine.report()
    assert (
        "    gets short of room; full in 5 h at the rate of the last hour"
        in status.render(report).splitlines()
    )
    (warning,) = report.problems
    assert (warning.code, warning.severity) == (Code.VOLUME_SHORT, Severity.WARN)
    assert warning.cause.endswith(" gets short of room, full in 5 h")
    assert json.loads(as_json(report))["volumes"][0]["hours_left"] == 5.2


def test_what_waits_for_room_is_wrong(machine: Machine) -> None:
    row = _watched(machine, level="no-forward", free=2 * GIB, stops=["retrieve", "forward"])
    machine.beat("extractor", disk=[row])
    (wrong,) = machine.report().problems
    assert wrong.cause.endswith(
        "only 2.1 GB free; nothing is retrieved and nothing is forwarded until there is more"
    )


def test_a_stale_extractor_is_not_believed_about_the_room(machine: Machine) -> None:
    machine.beat("extractor", age=3600, disk=[_watched(machine, free=1, level="refuse", stops=["retrieve"])])
    assert machine.report().volumes[0].free == 90 * GIB


def test_missing_output_dir_is_wrong(machine: Machine) -> None:
    machine.config.output_dir.rmdir()
    report = machine.report()
    assert [volume.use for volume in report.volumes] == ["output", "data"]
    assert "No such file" in _wrong(report)[0]


def test_quarantine_is_counted_and_a_warning(machine: Machine) -> None:
    assert machine.report().quarantine == 0
    folder = Paths(machine.config).quarantine / "1.2.3"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.dcm").touch()
        (folder / f"{number}.json").touch()
    report = machine.report()
    assert report.quarantine == 3
    assert _wrong(report) == ("3 images wait for you in quarantine; do: ddwd quarantine list",)
    assert is_well(report.problems)
    assert "1 warning" in status.render(report).splitlines()[0]


def test_a_study_uid_under_two_patients_is_a_problem_and_no_image_in_quarantine(machine: Machine) -> None:
    folder = Paths(machine.config).quarantine
    entry = QuarantinedObject("two-patients", _LONG_UID, "both stay", study="0" * 44)
    Quarantine(folder, machine.clock, Audit(lambda *_: None)).keep(None, entry)
    report = machine.report()
    assert (report.quarantine, report.two_patients) == (0, 1)
    (wrong,) = _wrong(report)
    assert wrong == (
        "1 study has the UID of another patient's study; do: ddwd quarantine list; "
        "decided by: ddwd quarantine release ID"
    )
    assert "BROKEN" in status.render(report)


def test_quarantine_that_may_not_be_read(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    Paths(machine.config).quarantine.mkdir()
    monkeypatch.setattr(type(machine.config.data_dir), "iterdir", refuse)
    report = machine.report()
    assert report.quarantine is None
    assert "quarantine: not readable by this user" in status.render(report)


def test_verb_prints_and_answers_by_its_exit_status(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "systemctl", machine.systemctl)
    monkeypatch.setattr(study_lookup, "orthanc", machine.orthanc)
    monkeypatch.setattr(view, "SystemClock", lambda: machine.clock)
    monkeypatch.setattr(postgresql, "problem", lambda _config: machine.database)
    parser = argparse.ArgumentParser()
    status.COMMAND.add_parser(parser.add_subparsers())
    text, as_json = io.StringIO(), io.StringIO()
    args = parser.parse_args(["status"])
    assert args.run(args, machine.config, text) == 0
    assert "all is well" in text.getvalue()
    machine.down = {"gateway"}
    args = parser.parse_args(["status", "--json"])
    assert args.run(args, machine.config, as_json) == 1
    assert json.loads(as_json.getvalue())["well"] is False


def test_systemctl_is_not_asked_where_systemd_did_not_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "_BOOTED", tmp_path / "none")
    assert units.systemctl(["show"]) is None


@pytest.mark.parametrize(("script", "answer"), [("echo Id=x", "Id=x\n"), ("exit 3", None)])
def test_systemctl_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, answer: str | None
) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(units, "_BOOTED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert units.systemctl(["show"]) == answer


def test_watched_it_is_shown_again_and_again_until_ctrl_c(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "systemctl", machine.systemctl)
    monkeypatch.setattr(study_lookup, "orthanc", machine.orthanc)
    monkeypatch.setattr(view, "SystemClock", lambda: machine.clock)
    monkeypatch.setattr(postgresql, "problem", lambda _config: machine.database)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("ddwd.cli.command.sleep", pause)
    parser = argparse.ArgumentParser()
    status.COMMAND.add_parser(parser.add_subparsers())
    out = io.StringIO()
    args = parser.parse_args(["status", "--watch"])
    with pytest.raises(KeyboardInterrupt):
        args.run(args, machine.config, out)
    assert pauses == [2.0, 2.0, 2.0]
    assert out.getvalue().count("all is well") == 3
    assert "\x1b" not in out.getvalue()


# --- senders ----------------------------------------------------------------------------------------------------------


def _sender(**changes: object) -> dict[str, Any]:
    return {"aet": "CT1", "address": "10.0.0.5", "open": 1, "images": 7, "refused": 2, "recent": 2, **changes}


def test_who_was_refused_is_shown_with_the_reason_and_is_no_problem_once_it_is_over(machine: Machine) -> None:
    reasons = [
        {
            "kind": "image",
            "reason": "the data set has no StudyInstanceUID",
            "count": 2,
            "last": stamp(machine.clock.utc()),
        }
    ]
    machine.beat("acceptor", associations=3, limit=600, senders=[_sender(reasons=reasons)])
    report = machine.report()
    assert _wrong(report) == ()
    text = status.render(report)
    assert "senders: 3 of 600 associations; 2 refusals in the last hour\n" in text
    assert "  CT1 at 10.0.0.5, last " in text
    assert "    2 x image: the data set has no StudyInstanceUID\n" in text


@pytest.mark.parametrize(("associations", "is_wrong"), [(479, False), (480, True), (600, True)])
def test_four_fifths_of_all_associations_are_a_problem_that_names_who_has_the_most(
    machine: Machine, associations: int, is_wrong: bool
) -> None:
    senders = [_sender(), _sender(aet="US4", address="10.0.0.9", open=associations - 1)]
    machine.beat("acceptor", associations=associations, limit=600, senders=senders)
    wrong = _wrong(machine.report())
    assert bool(wrong) is is_wrong
    assert (
        not is_wrong
        or f"{associations} of 600 associations are open, {associations - 1} by US4 at 10.0.0.9" in wrong[0]
    )


def test_an_address_that_is_held_off_is_a_problem(machine: Machine) -> None:
    machine.beat("acceptor", associations=0, limit=600, held_off={"10.0.0.5": 540})
    (line,) = _wrong(machine.report())
    assert line.startswith("10.0.0.5 is held off for 9 min more")


def _standing(**changes: object) -> dict[str, Any]:
    no_uid = {"kind": "image", "reason": "the data set has no StudyInstanceUID", "status": "0xC000"}
    return {**no_uid, "count": 2, "last": "2026-01-02T03:04:00.000Z", "standing": True, **changes}


@pytest.mark.parametrize(
    ("changes", "help_"),
    [
        ({}, "sending it again cannot help, it has to be corrected at the sender (docs/senders.md)"),
        ({"status": "0xA700"}, "sending it again can help (docs/senders.md)"),
        ({"kind": "association", "status": ""}, "compare AE titles, address and senders in ddwd.yaml"),
        ({"kind": "every presentation context", "status": ""}, "another transfer syntax"),
        ({"kind": "certificate", "status": ""}, "a valid certificate"),
        ({"kind": "unfinished message", "status": ""}, "look at the sender and at the network"),
    ],
)
def test_a_modality_that_is_refused_now_is_a_problem_that_says_who_why_and_what_to_do(
    machine: Machine, changes: dict[str, object], help_: str
) -> None:
    reasons = [_standing(kind="presentation context", standing=False), _standing(**changes)]
    machine.beat(
        "acceptor", associations=3, limit=600, senders=[_sender(reasons=reasons), _sender(aet="US4")]
    )
    (line,) = _wrong(machine.report())
    assert line.startswith("CT1 at 10.0.0.5 is refused: 2 x ")
    assert "the data set has no StudyInstanceUID; last 2026-01-02 03:04 UTC; do: " in line
    assert help_ in line


def test_a_flood_of_made_up_senders_is_six_lines(machine: Machine) -> None:
    senders = [_sender(aet=f"X{number}\x1b[2J", reasons=[_standing()]) for number in range(500)]
    machine.beat("acceptor", associations=3, limit=600, senders=senders)
    wrong = _wrong(machine.report())
    assert len(wrong) == 6
    assert wrong[-1] == "495 senders more are refused; do: ddwd-top, key s"
    assert "\x1b" not in status.render(machine.report())


def test_refusals_are_those_since_the_start_of_the_acceptor_if_that_is_no_hour_ago(machine: Machine) -> None:
    for age in (5, 59, 60, 61):
        since = stamp(machine.clock.utc() - timedelta(minutes=age))
        machine.beat("acceptor", age=0.0, associations=3, limit=600, since=since)
        text = " ".join(status.render(machine.report()).split())
        expected = "when ddwd-acceptor started" if age < 60 else "0 refusals in the last hour"
        assert expected in text


@pytest.mark.parametrize(("open_", "is_wrong"), [(76, False), (77, True), (96, True)])
def test_four_fifths_of_the_receivers_associations_are_a_problem(
    machine: Machine, open_: int, is_wrong: bool
) -> None:
    machine.beat("scp", alive=True, associations=open_, limit=96)
    report = machine.report()
    assert f"{open_}/96 associations, 0 received" in status.render(report)
    assert (f"{open_} of 96 associations of the receiver are open" in str(_wrong(report))) is is_wrong


@pytest.mark.parametrize(("open_", "is_wrong"), [(25, False), (26, True), (40, True)])
def test_four_fifths_of_what_orthanc2_serves_at_once_are_a_problem(
    machine: Machine, open_: int, is_wrong: bool
) -> None:
    machine.connected = open_
    report = machine.report()
    assert f"{open_} of 32 associations\n" in status.render(report)
    assert (f"{open_} of 32 associations of storage are open" in str(_wrong(report))) is is_wrong
    assert report.servers[0].associations is None


def test_an_addition_of_the_operator_changes_what_orthanc2_serves_at_once(machine: Machine) -> None:
    folder = Paths(machine.config).additions("storage")
    folder.mkdir(parents=True)
    (folder / "own.json").write_text('{"DicomThreadsCount": 100} // more')
    machine.connected = 40
    report = machine.report()
    assert report.servers[1].limit == 100
    assert _wrong(report) == ()


def test_connections_are_counted_at_the_kernels_table(tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    table.write_text(
        "  sl  local_address rem_address   st tx_queue\n"
        "   0: 0100007F:1093 00000000:0000 0A 00000000\n"  # the listener
        "   1: 0100007F:1093 0100007F:C001 01 00000000\n"
        "   2: 0100007F:C001 0100007F:1093 01 00000000\n"  # the other end
        "   3: 0100007F:1093 0100007F:C002 06 00000000\n"  # in TIME_WAIT
        "   4: 0100007F:1093 0100007F:C003 01 00000000\n"
    )
    assert connections.established(4243, table) == 2
    assert connections.established(4243, tmp_path / "none") == 0


def test_an_acceptor_that_hangs_is_a_problem(machine: Machine) -> None:
    machine.beat("acceptor", age=60.0)
    (line,) = _wrong(machine.report())
    assert "the heartbeat of the acceptor is stale" in line
