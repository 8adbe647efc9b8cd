"""`ddwd doctor`: check every part and say what to do; `--send`: send a test study through all hops. Otherwise writes nothing."""

from __future__ import annotations

import os
import subprocess
import textwrap
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from ddwd.backup import archive
from ddwd.cli.command import Argument, Command, VerbResult
from ddwd.config.loader import CONFIG_FILE, DEFAULTS_FILE
from ddwd.config.paths import Paths
from ddwd.config.schema import Config, NodeName
from ddwd.core.audit import Audit
from ddwd.core.clock import Clock, SystemClock, sleep
from ddwd.core.errors import ConfigError, DdwdError
from ddwd.core.model import SELF_TEST_AET
from ddwd.dicom import nodes
from ddwd.dicom.move_scu import echo
from ddwd.dicom.upper_layer import Peer
from ddwd.provisioning import credentials, firewall, quickack
from ddwd.provisioning.credentials import Credentials
from ddwd.status import report as view
from ddwd.status import study_lookup, units
from ddwd.status.certificates import expiry_of
from ddwd.status.doctor import examine
from ddwd.status.findings import CheckContext, Finding, Part, Severity
from ddwd.status.formatting import plain
from ddwd.status.self_test import SelfTest
from ddwd.store.status_files import SelfTestResult

_LOOK_SECONDS = 1.0
_WIDTH = 80
_PART = 15
_EPILOG = """Every part is looked at: units, settings, what the Orthancs really run with, their versions,
each hop, disk, permissions, clock, certificates, and what waits for you. With --send a small
made-up study goes from C-STORE to the disk, is compared image by image, and is removed again
everywhere; ddwd-doctor.timer does that every hour.

exit status:
  0   nothing is broken; warnings may be there
  1   something is broken, or the study did not arrive as it was sent
  64  wrong usage
  78  the configuration cannot be used"""
_MARKS = {Severity.OK: "ok", Severity.NOTE: "note", Severity.WARN: "WARN", Severity.BROKEN: "BROKEN"}


def _run(args: Namespace, config: Config) -> VerbResult:
    """Check every part, or send the test study."""
    if args.send and not config.has("extractor"):
        why = "the study of our own is sent from the machine of the extractor (roles in ddwd.yaml)"
        # neither --hourly nor --within asks which machine it is on
        return _not_sent(why, 0 if args.hourly or args.within is not None else 1)
    if args.hourly and not config.self_test.hourly:
        return _not_sent("the hourly self test is off: self_test.hourly in ddwd.yaml", 0)
    if args.send:
        return _send(config, args.within)
    findings = examine(context_of(config))
    broken = any(one.level is Severity.BROKEN for one in findings)
    rows = [asdict(one) | {"level": one.level.name.lower()} for one in findings]
    return VerbResult({"sound": not broken, "findings": rows}, render(findings).splitlines(), int(broken))


def _not_sent(why: str, status: int) -> VerbResult:
    return VerbResult({"sent": False, "reason": why}, [why], status)


def render(findings: list[Finding]) -> str:
    """Return the findings as text: one line for each, a second for its remedy."""
    lines = [line for one in findings for line in _lines(one)]
    broken = sum(one.level is Severity.BROKEN for one in findings)
    warned = sum(one.level is Severity.WARN for one in findings)
    return "\n".join([*lines, f"{broken} broken, {warned} to be warned of"]) + "\n"


def _lines(one: Finding) -> list[str]:
    head = f"{_MARKS[one.level]:<7}{one.part:<{_PART}}"
    lines = _wrapped(head, one.text)
    if one.remedy:
        lines += _wrapped(" " * 7 + f"{'-> ':>{_PART}}", one.remedy)
    return lines


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        plain(text),
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _send(config: Config, within: float | None) -> VerbResult:
    clock = SystemClock()
    test = SelfTest(config, Paths(config), study_lookup.both(config), clock, sleep)
    if within is not None:
        left = until_up(lambda: _all_answer(config), clock, sleep, within / 2)
        test = replace(test, limit=within / 2 + left)
    result = test.run(Audit())
    return VerbResult(asdict(result), _told(result), 0 if result.ok else 1)


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
    parts: tuple[Part, ...] = ("gateway", "storage", "scp")
    return all(echo(_peer(config, part)) for part in parts)


def _told(result: SelfTestResult) -> list[str]:
    lines = [f"self test {'passed' if result.ok else 'FAILED'}: {result.text}"]
    lines += [
        f"  on {hop:<8} {seconds:>6.1f} s after the last image was sent"
        for hop, seconds in result.seconds.items()
    ]
    return lines


def context_of(config: Config) -> CheckContext:
    """Return this machine for the checks."""
    login = _login(config)
    asked = {node.name: study_lookup.one(node, login) for node in config.known_nodes} if login else {}
    return CheckContext(
        config=config,
        report=view.collect(config, view.real_sources()),
        nodes=asked,
        login=login,
        systemctl=units.systemctl,
        echo=lambda part: echo(_peer(config, part)),
        ask_database=lambda node: _ask_database(config, node),
        clock_is_synchronised=_synchronised,
        expiry=expiry_of,
        routes=quickack.read,
        has_firewall=lambda: _has_firewall(config),
        clock=SystemClock(),
        settings=(Path(os.environ.get("DDWD_CONFIG") or CONFIG_FILE), DEFAULTS_FILE),
    )


def _peer(config: Config, part: Part) -> Peer:
    if part == "storage":
        return nodes.storage(config)
    return (nodes.gateway if part == "gateway" else nodes.scp)(config, SELF_TEST_AET)


def _has_firewall(config: Config) -> bool:
    """Return whether the portal's nftables table is loaded; for a user who may not ask, whether it should be."""
    if os.geteuid() != 0:
        return config.network.firewall
    return Path(firewall.PROGRAM).exists() and firewall.is_there()


def _ask_database(config: Config, node: NodeName) -> None:
    archive.ask(config, node, "SELECT 1", archive.SystemMachine())


def _login(config: Config) -> Credentials | None:
    try:
        return credentials.read(config.credentials_file)
    except ConfigError:
        if os.geteuid() == 0:
            raise
        return None


def _synchronised() -> bool | None:
    """Return whether the clock is synchronised, None if systemd does not know."""
    try:
        done = subprocess.run(
            ["/usr/bin/timedatectl", "show", "--property=NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())


_SEND = Argument("--send", action="store_true", help="send a study of our own through all hops instead")
_HOURLY = Argument("--hourly", action="store_true", help="with --send: only where self_test.hourly is on")
_WITHIN = Argument(
    "--within",
    type=float,
    metavar="SECONDS",
    help="with --send: right after a start, wait until every hop answers; all of it together takes at most so long",
)
COMMAND = Command(
    "doctor", "look at every part, and say what to do", _run, (_SEND, _HOURLY, _WITHIN), epilog=_EPILOG
)
