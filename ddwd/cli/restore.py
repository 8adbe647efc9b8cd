"""`ddwd restore DIR`: restore a backup onto this machine, start the portal, and have missing files retrieved again."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from ddwd import __version__
from ddwd.backup import archive
from ddwd.backup.restore import (
    CompleteBackup,
    assert_possible,
    assert_whole,
    open_backup,
    restore,
    would_be_lost,
)
from ddwd.cli.backup import SCHEMAS, assert_root, contents, told_on_terminal
from ddwd.cli.command import Argument, Command, VerbResult, file_errors
from ddwd.cli.doctor import context_of
from ddwd.cli.retry import bring_back
from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import SystemClock, sleep
from ddwd.core.errors import DdwdError, PeerRefusedError
from ddwd.extractor.refetch import RefetchOutcome
from ddwd.status.doctor import examine
from ddwd.status.findings import Finding, Severity
from ddwd.store.operator_requests import Request, Requests

_PATIENCE = 120.0
_EPILOG = """For a machine on which the portal is installed and has received nothing; otherwise it refuses
and says what would be lost, until you add --replace. The whole backup is looked at before
anything is changed. Then the portal is stopped, and everything put in place: databases, files,
settings, passwords. It starts with them, both Orthancs and the disk are compared, and published
files that are not here are fetched from ORTHANC2. What is in the output already is never removed
or replaced. Modalities have to send again what they sent after the backup was taken.
Broken off, it leaves the portal stopped: run it again. The old machine must not run any more.

exit status:
  0   restored, and all is well; with --dry-run: it could be
  1   this machine holds studies, and --replace was not given; or restored, and something is
      not well: it is named
  64  wrong usage
  65  only root may; the backup is damaged, or of a newer version
  66  DIR holds no finished backup
  69  PostgreSQL does not answer
  74  no room
  76  PostgreSQL or systemd refused
  78  the settings in the backup cannot be used"""


def _run(args: Namespace, _config: Config | None) -> VerbResult:
    """Check the whole backup, then restore it."""
    assert_root()
    with file_errors(at=args.folder), told_on_terminal(as_json=args.json) as told:
        backup = open_backup(args.folder.absolute(), __version__, SCHEMAS)
        assert_whole(backup, told)
        assert_possible(backup)
        lost = [
            f"{words}: {one.files}, {archive.as_written(one.bytes)}" for words, one in would_be_lost(backup)
        ]
        if args.dry_run:
            return _could_be(backup, lost)
        if lost and not args.replace:
            raise DdwdError(
                f"this machine holds {'; '.join(lost)}. Nothing was changed; --replace removes them"
            )
        _put(backup, told)
    Audit().record(Event.REQUESTED, "the operator asks: restore, and has it")
    return _start(backup, as_json=args.json)


def _put(backup: CompleteBackup, progress: archive.Progress) -> None:
    try:
        restore(backup, archive.SystemMachine(), progress)
    except BaseException:
        if Paths(backup.config).restoring.exists():
            sys.stderr.write("ddwd: the restore is not finished and the portal stays stopped: run it again\n")
        raise


def _could_be(backup: CompleteBackup, lost: list[str]) -> VerbResult:
    manifest = backup.manifest
    facts = {"portal": manifest.portal, "host": manifest.host, "began": manifest.began, "lost": lost}
    lines = [
        f"backup of {manifest.host} by ddwd {manifest.portal}, as of {manifest.began}: whole",
        *contents(manifest, backup.config),
        *(f"would be removed here: {line}" for line in lost),
        "it needs --replace here" if lost else "it can be restored here",
    ]
    return VerbResult(facts | {"bytes": manifest.bytes}, lines, 1 if lost else 0)


def _start(backup: CompleteBackup, *, as_json: bool) -> VerbResult:
    """Start the portal, wait until it is sound, and have missing files retrieved again."""
    answer = archive.SystemMachine().pipe(["systemctl", "start", "ddwd.service"])
    if answer.status:
        raise PeerRefusedError(
            f"restored, and the portal does not start: {answer.complaint}; see: systemctl status ddwd"
        )
    config = load()
    broken = _wait_until_well(config)
    Requests(Paths(config).requests).submit(Request("reconcile"))
    return _result(backup, broken, bring_back(config, as_json=as_json))


def _wait_until_well(config: Config) -> list[Finding]:
    """Run the checks until none is broken, for at most _PATIENCE seconds; return what still is."""
    clock = SystemClock()
    until = clock.monotonic() + _PATIENCE
    while True:
        broken = [one for one in examine(context_of(config)) if one.level is Severity.BROKEN]
        if not broken or clock.monotonic() > until:
            return broken
        sleep(1)


def _result(backup: CompleteBackup, broken: list[Finding], outcome: RefetchOutcome) -> VerbResult:
    manifest = backup.manifest
    data: dict[str, Any] = {"restored": manifest.set, "began": manifest.began}
    data |= {"broken": [one.text for one in broken], "fetched_again": outcome.back}
    data |= {"lost": outcome.lost, "under_way": outcome.waiting}
    lines = [f"restored as of {manifest.began}, and started"]
    if outcome.asked:
        lines.append(
            f"{outcome.back} of {outcome.asked} published studies that were not here are on disk again"
        )
    if outcome.lost:
        lines.append(f"{outcome.lost} could not be had from ORTHANC2: ddwd verify --all names the images")
    if outcome.waiting:
        lines.append(f"{outcome.waiting} are still under way: ddwd status; then: ddwd retry --gone")
    lines += [f"{one.part}: {one.text}; {one.remedy}" for one in broken]
    lines.append("what was sent after that, the modalities have to send again; see: ddwd status")
    return VerbResult(data, lines, 0 if not broken and outcome.asked == outcome.back else 1)


_FOLDER = Argument("folder", type=Path, metavar="DIR", help="what ddwd backup was given")
_DRY_RUN = Argument("--dry-run", action="store_true", help="only look at the backup and at this machine")
_REPLACE = Argument("--replace", action="store_true", help="remove what this machine holds")
COMMAND = Command(
    "restore",
    "put a backup onto this machine",
    _run,
    (_FOLDER, _DRY_RUN, _REPLACE),
    epilog=_EPILOG,
    needs_config=False,
)
