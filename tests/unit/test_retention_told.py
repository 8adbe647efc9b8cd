"""What people are told of retention: `ddwd retention`, verify, trace, status, the doctor. And what ddwd.yaml may not say of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.cli import retention as cli
from ddwd.cli import status
from ddwd.cli.main import parser
from ddwd.config.loader import load
from ddwd.config.parsers import Share
from ddwd.config.retention import Retention
from ddwd.core.errors import ConfigError, PeerDownError, StateError
from ddwd.core.model import SELF_TEST_PATIENT
from ddwd.core.problem import Severity
from ddwd.daemon.extractor import StatusTotals, extractor_status
from ddwd.retention import rules, scheduler
from ddwd.status import study_lookup, trace_text
from ddwd.status import trace as view
from ddwd.status.report import VolumeState
from ddwd.store.operator_requests import Request
from ddwd.store.statefile import encode
from ddwd.store.status_files import EXTRACTOR, SelfTestResult
from tests.unit.fakes import image
from tests.unit.portal import Portal, names
from tests.unit.test_doctor import Machine
from tests.unit.test_flow import report
from tests.unit.test_proof import NO_CHAIN
from tests.unit.test_retention import GATEWAY, IMAGES, OUTPUT, STORAGE, STUDY, delivered, pass_days

if TYPE_CHECKING:
    from pathlib import Path

_OTHER = [image(2, number=n) for n in (1, 2)]


def _run(portal: Portal, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    monkeypatch.setattr(study_lookup, "both", lambda _config: (portal.gateway, portal.storage))
    monkeypatch.setattr(cli, "SystemClock", lambda: portal.clock)
    out = io.StringIO()
    args = parser().parse_args(["retention", *words])
    code = args.run(args, portal.config, out)
    assert "PAT1" not in out.getvalue()
    return code, out.getvalue()


def _json(portal: Portal, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, Any]:
    code, said = _run(portal, monkeypatch, *words, "--json")
    return code, json.loads(said)


# --- the dry run ------------------------------------------------------------------------------------------------------


def test_a_dry_run_names_what_would_go_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, GATEWAY)
    portal.clock.advance(2 * 86400)
    before = portal.custody.path(STUDY).read_bytes()
    code, said = _run(portal, monkeypatch, "--dry-run")
    assert (code, said.splitlines()[0]) == (0, "gateway  1.2.3.1 goes: 3 images, 1.5 kB")
    assert "3 images of 1 study (1.5 kB) would be removed from the gateway\n" in said
    assert (len(portal.gateway.images), portal.custody.path(STUDY).read_bytes()) == (3, before)


def test_a_dry_run_says_of_each_study_why_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = delivered(tmp_path, GATEWAY, *IMAGES, *_OTHER)
    portal.storage.fileless.add(_OTHER[0].orthanc_id)
    portal.clock.advance(2 * 86400)
    code, said = _json(portal, monkeypatch, "--dry-run")
    assert code == 1
    assert {row["study_uid"]: row["reason"] for row in said["studies"]} == {
        "1.2.3.1": "", "1.2.3.2": rules.DAMAGED_ON_STORAGE,
    }  # fmt: skip
    assert (said["places"]["gateway"]["images"], said["places"]["storage"]["studies"]) == (3, 0)


def test_a_dry_run_foretells_what_a_round_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = delivered(tmp_path, OUTPUT, *IMAGES, *_OTHER)
    portal.storage.forget(_OTHER[0].orthanc_id)
    portal.gateway.forget(_OTHER[0].orthanc_id)
    portal.clock.advance(2 * 86400)
    _, foretold = _json(portal, monkeypatch, "--dry-run")
    pass_days(portal, 0)
    _, done = _json(portal, monkeypatch)
    assert done["last"]["places"] == foretold["places"]
    assert portal.published() == names(*_OTHER)


def test_a_dry_run_foretells_that_storage_goes_after_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, Retention(gateway_days=0, storage_days=0))
    code, said = _json(portal, monkeypatch, "--dry-run")
    assert (code, [row["place"] for row in said["studies"]]) == (0, ["gateway", "storage"])
    assert (len(portal.gateway.images), len(portal.storage.images)) == (3, 3)
    portal.requests.submit(Request("retention"))
    portal.run(10)
    assert _json(portal, monkeypatch)[1]["last"]["places"] == said["places"]


def test_a_dry_run_takes_for_want_of_room_no_more_than_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, Retention(gateway_free=Share("1", bytes=1000)), *IMAGES)
    portal.deliver(*_OTHER)
    portal.run(10)
    portal.clock.advance(5 * 86400)
    portal.disk.free["gateway"] = 1
    monkeypatch.setattr("ddwd.core.disk_space.space_of", portal.disk.measure)
    monkeypatch.setattr(cli, "measure", portal.disk.measure)
    _, said = _json(portal, monkeypatch, "--dry-run")
    assert [row["study_uid"] for row in said["studies"]] == ["1.2.3.1"]


def test_a_study_in_flight_is_not_part_of_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = delivered(tmp_path, GATEWAY)
    portal.requests.submit(Request("pause"))
    portal.deliver(image(number=9))
    portal.storage.settle(STUDY)
    portal.run(10)
    portal.clock.advance(2 * 86400)
    path = portal.paths.heartbeat("extractor")
    path.parent.mkdir(parents=True, exist_ok=True)
    EXTRACTOR.write_volatile(path, extractor_status(portal.extractor, StatusTotals(), portal.clock))
    assert _json(portal, monkeypatch, "--dry-run")[1]["studies"] == []


def test_an_orthanc_that_is_away_ends_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = delivered(tmp_path, GATEWAY)
    portal.gateway.down = True
    with pytest.raises(PeerDownError):
        _run(portal, monkeypatch, "--dry-run")


# --- policy and last round --------------------------------------------------------------------------------------------


def test_the_policy_and_the_last_round_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = delivered(tmp_path, STORAGE)
    assert _run(portal, monkeypatch)[1].splitlines() == [
        "gateway  keeps a study for 1 day",
        "storage  keeps a study for 2 days",
        "output   keeps a study for ever",
        "no round yet",
    ]
    portal.gateway.images[IMAGES[0].orthanc_id] = image(number=1, pixels=b"z" * 64)
    pass_days(portal, 5)
    code, said = _run(portal, monkeypatch)
    assert code == 1
    assert f"    1 study stays: {rules.OTHER_AT_GATEWAY}, as 1.2.3.1\n" in said
    assert f"    1 study stays: {rules.STILL_AT_GATEWAY}, as 1.2.3.1\n" in said


def test_a_round_that_was_broken_off_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = delivered(tmp_path, GATEWAY)
    monkeypatch.setattr(portal.gateway, "stored", lambda *_words: 1 / 0)
    pass_days(portal, 2)
    assert "interrupted: ZeroDivisionError" in _run(portal, monkeypatch)[1]
    assert len(portal.gateway.images) == 3


def test_who_may_not_look_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = delivered(tmp_path, GATEWAY)
    portal.paths.retention.mkdir()  # a file that cannot be read, to whoever runs this
    with pytest.raises(StateError, match="for root and group ddwd"):
        _run(portal, monkeypatch)
    portal.start()


def test_now_asks_the_extractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = delivered(tmp_path, GATEWAY)
    assert _run(portal, monkeypatch, "--now")[0] == 0
    ((_, request),) = portal.requests.take()
    assert request == Request("retention")


# --- the others -------------------------------------------------------------------------------------------------------


def test_verify_says_how_many_were_removed(tmp_path: Path) -> None:
    portal = delivered(tmp_path, OUTPUT)
    pass_days(portal, 2)
    out = io.StringIO()
    args = parser().parse_args(["verify", "--all"])
    assert args.run(args, portal.config, out) == 0
    counts = "1 studies, 3 images, 3 of them removed by retention: all as recorded\n"
    assert out.getvalue() == counts + NO_CHAIN


def test_verify_with_storage_does_not_miss_what_retention_took_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = delivered(tmp_path, STORAGE)
    pass_days(portal, 1.5)
    pass_days(portal, 2)
    monkeypatch.setattr(study_lookup, "both", lambda _config: (portal.gateway, portal.storage))
    args = parser().parse_args(["verify", "--all", "--storage"])
    assert args.run(args, portal.config, io.StringIO()) == 0


def test_trace_tells_where_it_was_removed_and_how_to_have_it_again(tmp_path: Path) -> None:
    portal = delivered(tmp_path, Retention(gateway_days=1, output_days=1))
    pass_days(portal, 2)
    told = view.trace(STUDY, portal.config, (portal.gateway, portal.storage), ())
    assert told.complete
    assert "retention removed 3 images there, last 2026-01-04" in told.verdict
    assert told.next_step == f"none; to restore the files: ddwd retry {STUDY}"
    assert [(hop.images, bool(hop.retired)) for hop in told.hops] == [(0, True), (3, False), (0, True)]
    assert sum("removed by retention 2026-01-04" in line for line in trace_text.lines(told, 100)) == 2


def test_the_status_has_the_last_round(tmp_path: Path) -> None:
    portal = delivered(tmp_path, STORAGE)
    portal.storage.fileless.add(IMAGES[0].orthanc_id)
    pass_days(portal, 5)
    told = extractor_status(portal.extractor, StatusTotals(), portal.clock)
    body = EXTRACTOR.body(told)
    assert body["retention"]["last"]["places"]["gateway"]["kept"][0]["studies"] == 1
    shown = status.render(report(retention=told.retention))
    assert "retention: 0 studies removed (0 B) at 2026-01-07" in shown
    assert "\n  2 studies have to stay; why: ddwd retention\n" in shown


def test_the_status_says_nothing_where_nothing_is_ever_removed(tmp_path: Path) -> None:
    portal = delivered(tmp_path, Retention())
    told = extractor_status(portal.extractor, StatusTotals(), portal.clock)
    body = EXTRACTOR.body(told)
    assert body["retention"] == {}
    assert "retention" not in status.render(report(retention=told.retention))


def test_the_last_round_is_known_after_a_restart(tmp_path: Path) -> None:
    portal = delivered(tmp_path, GATEWAY)
    pass_days(portal, 2)
    portal.start()
    told = extractor_status(portal.extractor, StatusTotals(), portal.clock)
    body = EXTRACTOR.body(told)
    assert body["retention"]["last"]["places"]["gateway"]["images"] == 3


def _disk(machine: Machine) -> list[str]:
    return [one.cause for one in machine.examine() if one.part == "disk" and one.severity is Severity.WARN]


def _short(machine: Machine, **changes: Any) -> None:
    volume = VolumeState("output", "/x", free=1, total=100, level="warn")
    machine.report = report(self_test=SelfTestResult(ok=True, text="passed"), volumes=(volume,), **changes)


def test_the_doctor_warns_where_room_gets_short_and_nothing_is_ever_removed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    _short(machine)
    assert "room gets short, and nothing is ever removed" in _disk(machine)


def test_the_doctor_warns_where_room_gets_short_and_all_is_too_young(tmp_path: Path) -> None:
    (tmp_path / "portal").mkdir()
    portal = delivered(tmp_path / "portal", Retention(gateway_days=100))
    pass_days(portal, 1)
    machine = Machine(tmp_path / "machine")
    machine.config = replace(machine.config, retention=Retention(gateway_days=100))
    for node in ("gateway", "storage"):
        machine.render(node)
    said = extractor_status(portal.extractor, StatusTotals(), portal.clock).retention
    machine.clock.advance(86400)
    _short(machine, retention=said)
    assert "room gets short, and nothing that may go is old enough" in _disk(machine)


def test_the_doctor_tells_what_has_to_stay_and_why(tmp_path: Path) -> None:
    (tmp_path / "portal").mkdir()
    portal = delivered(tmp_path / "portal", GATEWAY)
    portal.storage.fileless.add(IMAGES[0].orthanc_id)
    pass_days(portal, 2)
    machine = Machine(tmp_path / "machine")
    machine.config = replace(machine.config, retention=GATEWAY)
    for node in ("gateway", "storage"):
        machine.render(node)
    machine.clock.advance(2 * 86400)
    machine.report = report(
        retention=extractor_status(portal.extractor, StatusTotals(), portal.clock).retention
    )
    assert f"1 study has to stay on the gateway, as 1.2.3.1: {rules.DAMAGED_ON_STORAGE}" in _disk(machine)
    machine.clock.advance(5 * 86400)
    assert "no round of retention has ended since 2026-01-04" in _disk(machine)


def test_a_self_test_needs_no_retention(tmp_path: Path) -> None:
    own = image(7, patient=SELF_TEST_PATIENT)
    portal = delivered(tmp_path, Retention(gateway_days=0), own)
    portal.requests.submit(Request("retention"))
    portal.run(10)
    assert portal.gateway.images == {}
    portal.requests.submit(Request("forget", own.study_id))
    portal.run(2)
    assert portal.published() == {}
    assert scheduler.IN_FLIGHT not in json.dumps(encode(portal.extractor.retention.state()))


# --- ddwd.yaml --------------------------------------------------------------------------------------------------------


def _problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "ddwd.yaml"
    path.write_text(text)
    environ = {"DDWD_CONFIG": str(path), "DDWD_DEFAULTS": str(tmp_path / "none")}
    try:
        load(environ=environ)
    except ConfigError as error:
        return [line.replace(f"{path}:", "") for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize(
    "text",
    [
        "retention:\n  gateway_days: 7\n",
        "retention:\n  gateway_days: 0.5\n  storage_days: 0.5\n",
        "retention:\n  gateway_free: 12.5%\n  output_free: 500 GiB\n  output_days: 365\n",
        "retention:\n  gateway_days: 1\n  storage_days: 2\n  output_days: 3\n  remove_last_copy: true\n",
        "retention:\n  gateway_days: 7\nroutes:\n  - name: a\n    keep_gateway: forever\n    keep_output: 3\n",
    ],
)
def test_what_can_be_done_may_be_said(tmp_path: Path, text: str) -> None:
    assert _problems(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "retention:\n  gateway_days: 7\n  storage_days: 6\n",
            "3: retention.storage_days: storage would be kept for fewer days than the gateway's copy, which goes first; set storage_days to no less than gateway_days",
        ),
        (
            "retention:\n  storage_days: 6\n",
            "2: retention.storage_days: storage may only go after the gateway's copy, which is kept for ever; set gateway_days too, no longer than storage_days",
        ),
        (
            "retention:\n  gateway_days: 1\n  storage_days: 2\n  output_free: 10%\n",
            "4: retention.output_free: storage and output both have an end, and one of them has the last copy; keep one for ever, or set remove_last_copy: true",
        ),
        (
            "retention:\n  gateway_days: 9\nroutes:\n  - name: a\n    keep_storage: 3\n",
            "4: routes: storage of route a would be kept for fewer days than the gateway's copy, which goes first; set storage_days to no less than gateway_days",
        ),
        ("retention:\n  gateway_days: soon\n", "2: retention.gateway_days: 'soon' is not a number of days; write a number of days from 0 to 36500, without quotes or unit; leave it empty to keep for ever"),
        ("retention:\n  gateway_days: 40000\n", "2: retention.gateway_days: 40000 is out of range; write a number of days from 0 to 36500, without quotes or unit; leave it empty to keep for ever"),
        ("retention:\n  gateway_free: much\n", "2: retention.gateway_free: 'much' is neither a percentage nor a size; write 10% or 500 GiB; leave it empty for no bound"),
        ("retention:\n  gateway_free: 0%\n", "2: retention.gateway_free: 0% is out of range; write more than 0%; leave it empty for no bound"),
        ("routes:\n  - name: a\n    keep_gateway: always\n", "3: routes.keep_gateway: 'always' is not a number of days; write a number of days from 0 to 36500, or forever"),
    ],
)  # fmt: skip
def test_what_can_never_be_done_is_refused_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    assert _problems(tmp_path, text) == [line]
