"""`ddwd doctor`: check every part and say what to do; `--send`: send a test study through all hops. Otherwise writes nothing."""

import os
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from ddwd.cli.command import Argument, Command, Marked, VerbResult, flag, prints, wrapped
from ddwd.config.loader import settings_files
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.answers import sometimes
from ddwd.core.audit import Audit
from ddwd.core.clock import Clock, SystemClock, sleep
from ddwd.core.errors import ConfigError, DdwdError, PeerRefusedError
from ddwd.core.model import SELF_TEST_AET
from ddwd.core.problem import PROBLEMS, VERDICT, Severity, as_answer, is_well, verdict, worst
from ddwd.dicom import nodes
from ddwd.dicom.move_scu import echo
from ddwd.provisioning import credentials, databases, firewall
from ddwd.provisioning.credentials import Credentials
from ddwd.provisioning.host import SystemHost
from ddwd.provisioning.port_holders import holders
from ddwd.status import report as view
from ddwd.status import study_lookup, units
from ddwd.status.certificates import expiry_of
from ddwd.status.check_context import ProbeContext
from ddwd.status.doctor import CHECKS, Examination, examine
from ddwd.status.formatting import plain
from ddwd.status.self_test import SelfTest

_LOOK_SECONDS = 1.0
_PART = 15
_MARKS = {Severity.NOTE: "note", Severity.WARN: "WARN", Severity.BROKEN: "BROKEN"}


def _run(args: Namespace, config: Config) -> VerbResult:
    if args.send and not config.has("extractor"):
        why = "the machine of the extractor sends the test study (roles in ddwd.yaml)"
        # --hourly and --within are for timers and upgrades, which run on every machine: no failure there
        return _not_sent(why, 0 if args.hourly or args.within is not None else 1)
    if args.hourly and not config.self_test.hourly:
        return _not_sent("the hourly self test is off: self_test.hourly in ddwd.yaml", 0)
    if args.send:
        return _send(config, args.within)
    found = examine(context_of(config))
    return VerbResult(as_json(found), lines(found), 0 if is_well(found.problems) else 1)


def as_json(found: Examination) -> dict[str, Any]:
    """Return what the doctor found for json.dumps: the verdict, the problems as in `ddwd status`, and the parts that are well."""
    return as_answer(found.problems) | {"fine": found.fine}


def _not_sent(why: str, status: int) -> VerbResult:
    return VerbResult({"sent": False, "reason": why}, [why], status)


def render(found: Examination) -> str:
    """Return what the doctor found as plain text."""
    return "\n".join(lines(found)) + "\n"


def lines(found: Examination) -> list[str]:
    """Return what the doctor found, in the order of the parts: a line for each problem, a second for its remedy."""
    shown: list[str] = []
    for part in CHECKS:
        if part in found.fine:
            shown += wrapped(found.fine[part], f"{'ok':<7}{part:<{_PART}}", 7 + _PART)
        for one in found.of(part):
            head = f"{_MARKS[one.severity]:<7}{part:<{_PART}}"
            text = wrapped(f"{plain(one.cause)} [{one.code}]", head, len(head))
            shown += [Marked.of(line, one.severity) for line in text]
            if one.remedy:
                shown += wrapped(plain(one.remedy), " " * 7 + f"{'-> ':>{_PART}}", 7 + _PART)
    return [*shown, Marked.of(verdict(found.problems), worst(found.problems) or 0)]


def _send(config: Config, within: float | None) -> VerbResult:
    clock = SystemClock()
    test = SelfTest(config, Paths(config), study_lookup.both(config), clock)
    if within is not None:
        left = until_up(lambda: _all_answer(config), clock, sleep, within / 2)
        test = replace(test, limit=within / 2 + left)
    result = test.run(Audit())
    lines = [f"self test {'passed' if result.ok else 'FAILED'}: {result.text}"]
    for hop, seconds in result.seconds.items():
        lines.append(f"  on {hop:<8} {seconds:>6.1f} s after the last image was sent")
    return VerbResult({"sent": True} | asdict(result), lines, 0 if result.ok else 1)


def until_up(
    answer: Callable[[], bool], clock: Clock, sleep: Callable[[float], None], within: float
) -> float:
    """Wait until all answer, at most `within` seconds; return the seconds left. The self test then reports what does not answer."""
    end = clock.monotonic() + within
    while clock.monotonic() < end and not answer():
        sleep(_LOOK_SECONDS)
    return end - clock.monotonic()


def _all_answer(config: Config) -> bool:
    try:
        for node in study_lookup.both(config):
            node.system()
    except DdwdError:
        return False
    return all(echo(nodes.of_part(config, part, SELF_TEST_AET)) for part in get_args(nodes.Part))


def context_of(config: Config) -> ProbeContext:
    """Return this machine for the checks."""
    login = _login(config)
    orthancs = {node.name: study_lookup.orthanc(node, login) for node in config.known_nodes} if login else {}
    return ProbeContext(
        config=config,
        report=view.collect(config, view.real_sources()),
        nodes=orthancs,
        login=login,
        systemctl=units.systemctl,
        echo=lambda part: echo(nodes.of_part(config, part, SELF_TEST_AET)),
        ask_database=lambda node: databases.ask(config, node, "SELECT 1", SystemHost()),
        clock_is_synchronised=_synchronised,
        expiry=expiry_of,
        has_firewall=_has_firewall,
        holders=holders,
        clock=SystemClock(),
        settings=settings_files(),
    )


def _has_firewall() -> bool | None:
    """Return whether the portal's nftables table is loaded; None for a user who may not ask, or if nothing can be asked."""
    if os.geteuid() != 0:
        return None
    try:
        return Path(firewall.PROGRAM).exists() and firewall.is_there()
    except PeerRefusedError:  # the kernel has no nftables
        return False


def _login(config: Config) -> Credentials | None:
    try:
        return credentials.read(config.credentials_file)
    except ConfigError:
        if os.geteuid() == 0:
            raise
        return None


def _synchronised() -> bool | None:
    """Return whether the clock is synchronised, None if systemd does not know."""
    answer = SystemHost().run(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    return {"yes": True, "no": False}.get(answer.out)


COMMAND = Command(
    "doctor",
    "check every part and say what to do",
    prints(_run),
    (
        flag("--send", "send a test study through all hops instead of the checks"),
        flag("--hourly", "with --send: only where self_test.hourly is on"),
        Argument(
            "--within",
            type=float,
            metavar="SECONDS",
            help="with --send, after a start: wait until every hop answers; wait and test take at most so long",
        ),
    ),
    about="""It checks the units, the settings, what the Orthancs really run with, their versions, each hop,
disk, permissions, clock, certificates, and what waits for you. With --send a small made-up study
goes from C-STORE to the disk. It is compared image by image, then removed everywhere.
ddwd-doctor.timer does that every hour.""",
    exits={
        0: "no part is broken; there may be warnings",
        1: "a part is broken, or the test study did not arrive as it was sent",
    },
    answer=(
        replace(VERDICT, is_always_there=False),
        replace(PROBLEMS, is_always_there=False),
        sometimes("fine", dict[str, str], "each part that is well, and what was found"),
        sometimes("sent", bool, "with --send: whether the test study was sent"),
        sometimes("reason", str, "with --send: why it was not sent"),
        sometimes("at", str, "with --send: when the self test ended"),
        sometimes("ok", bool, "with --send: whether the test study arrived as it was sent"),
        sometimes("text", str, "with --send: the result in words"),
        sometimes("seconds", dict[str, float], "with --send: seconds after the last image was sent, by hop"),
    ),
)
