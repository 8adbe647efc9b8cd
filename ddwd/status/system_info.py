"""Facts for a support bundle: versions, units, their journal, disks, memory, network, and counts of the portal's files. Reads only.

Each fact is the bounded output of a program; a function raises NotFoundError or PeerDownError if there is none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddwd.core import audit
from ddwd.core.clock import stamp
from ddwd.core.errors import NotFoundError, PeerDownError
from ddwd.extractor.quarantine import read_entries
from ddwd.status.events import contents
from ddwd.status.formatting import plain
from ddwd.store.backends import history_of
from ddwd.store.ledger import parse_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ddwd.config.paths import Paths

    Run = Callable[[Sequence[str]], str]
    """Output of the program, whatever its exit status."""

_SECONDS = 30.0
_JOURNAL_BYTES = 4 * 1024 * 1024
_LEDGER_BYTES = 64 * 1024 * 1024
_PACKAGES = (
    "ddwd",
    "orthanc*",
    "postgresql*",
    "python3",
    "python3-*",
    "dcmtk",
    "libdcmtk*",
    "stunnel4",
    "systemd",
    "linux-image-*",
)
_UNIT_PROPERTIES = (
    "Id,Description,LoadState,ActiveState,SubState,Result,UnitFileState,ConditionResult,StatusText,"
    "FragmentPath,DropInPaths,NRestarts,ExecMainCode,ExecMainStatus,ExecMainStartTimestamp,ActiveEnterTimestamp,"
    "InactiveEnterTimestamp,MemoryCurrent,MemoryPeak,MemoryMax,TasksCurrent,CPUUsageNSec,WatchdogTimestamp,"
    "NextElapseUSecRealtime,LastTriggerUSec"
)
"""Properties of a unit that hold no password; Environment= may."""
_PROC = ("loadavg", "uptime", "meminfo", "pressure/cpu", "pressure/io", "pressure/memory")
_FIELDS = [f"DDWD_{name.upper()}" for name in sorted({*audit.FIELDS - {"accession"}, "event", "study_uid"})]
"""Fields of an audit record, without the patient's identifier and the accession number."""
_LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")


def run(command: Sequence[str]) -> str:
    """Return the output of a program, of one that fails too if there is any."""
    program = shutil.which(command[0])
    if program is None:
        raise NotFoundError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired:
        raise PeerDownError(f"{command[0]} did not answer within {_SECONDS:.0f} s") from None
    output = done.stdout.decode(errors="replace")
    if not output.strip() and done.returncode:
        errors = done.stderr.decode(errors="replace").strip().splitlines()
        raise NotFoundError(f"{command[0]}: {errors[0] if errors else f'exit status {done.returncode}'}")
    return output


def together(run: Run, *commands: Sequence[str]) -> str:
    """Return the outputs as one text, each below its command; instead of an output that fails, its error."""
    parts = []
    for command in commands:
        try:
            output = run(command)
        except (NotFoundError, PeerDownError) as error:
            output = f"({error})\n"
        parts.append(f"$ {' '.join(command)}\n{output}")
    return "\n".join(parts)


def versions(run: Run) -> str:
    """Return the relevant packages, the distribution and the kernel."""
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev} ${Package} ${Version}\n", *_PACKAGES]
    packages = [line for line in run(query).splitlines() if line.startswith("i")]
    return "\n".join([*packages, "", together(run, ["uname", "-a"], ["cat", "/etc/os-release"])])


def units(run: Run) -> list[str]:
    """Return every unit of the portal and of PostgreSQL that systemd knows."""
    output = run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "ddwd*", "postgresql*"])
    return sorted(line.split()[0] for line in output.splitlines() if line.strip())


def unit_states(run: Run, names: Sequence[str]) -> str:
    """Return the state of each unit, without its journal, which is a part of its own, and without its environment."""
    return together(
        run,
        ["systemctl", "list-units", "--all", "--plain", "ddwd*", "postgresql*"],
        ["systemctl", "list-timers", "--all", "ddwd*"],
        ["systemctl", "--failed", "--plain"],
        ["systemctl", "status", "--lines=0", "--full", "--no-pager", "--", *names],
        ["systemctl", "show", f"--property={_UNIT_PROPERTIES}", "--", *names],
    )


def disks(run: Run, places: Iterable[Path]) -> str:
    """Return the space on each volume that the portal writes to."""
    folders = [str(place) for place in dict.fromkeys(places) if place.exists()]
    table = ["df", "--output=source,fstype,size,used,avail,pcent,iavail,target", "--block-size=1"]
    mounts = (
        ["findmnt", "--noheadings", "--output=TARGET,SOURCE,FSTYPE", "--target", folder] for folder in folders
    )
    return together(run, [*table, *folders], ["df", "--human-readable", "/"], *mounts)


def memory() -> str:
    """Return memory, load and pressure."""
    files = [Path("/proc") / name for name in _PROC]
    parts = [f"$ cat {path}\n{path.read_text(encoding='ascii')}" for path in files if path.exists()]
    return "\n".join([f"{os.cpu_count()} processors\n", *parts])


def network(run: Run) -> str:
    """Return addresses, routes and listening sockets."""
    return together(
        run,
        ["ip", "-brief", "address"],
        ["ip", "route", "show", "table", "all"],
        ["ip", "-6", "route", "show"],
        ["ss", "--listening", "--tcp", "--udp", "--numeric", "--processes"],
        ["ss", "--summary"],
    )


def clock(run: Run) -> str:
    """Return whether the clock is synchronised."""
    return together(run, ["timedatectl", "show"], ["date", "--utc", "--iso-8601=ns"])


def journal(unit: str = "", *, limit: int = _JOURNAL_BYTES) -> str:
    """Return the last day of one unit, or of the audit trail: the newest lines up to `limit` bytes, with the fields of _FIELDS only."""
    chosen = [f"--unit={unit}"] if unit else audit.selection()
    fields = ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "_PID", "_UID", "_TRANSPORT", *_FIELDS]
    program = shutil.which("journalctl")
    if program is None:
        raise NotFoundError("journalctl is not installed")
    command = [program, "--no-pager", "--all", "--since=-24h", "--reverse", "--output=json", *chosen]
    rows, is_cut = _rows([*command, f"--output-fields={','.join(fields)}"], limit)
    # the audit trail is a file of its own
    rows = [row for row in rows if audit.is_genuine(row) is not bool(unit)]
    lines = [line for row in reversed(rows) for line in _lines_of(row)]
    if is_cut:
        lines.insert(0, f"(older lines are left out: this is the newest of more than {limit // 1024} KiB)")
    return "".join(f"{line}\n" for line in lines)


def _rows(command: Sequence[str], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Read the records, newest first, and whether there were more than the limit."""
    rows: list[dict[str, Any]] = []
    size = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        timer = threading.Timer(_SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            assert process.stderr is not None  # noqa: S101 - as above
            for line in process.stdout:
                size += len(line)
                if size > limit:
                    process.kill()
                    return rows, True
                rows.append(json.loads(line))
            if process.wait() and not rows:
                errors = process.stderr.read().decode(errors="replace").strip().splitlines()
                raise PeerDownError(f"journalctl: {errors[0] if errors else 'it was ended'}")
        finally:
            timer.cancel()
    return rows, False


def _lines_of(row: dict[str, Any]) -> list[str]:
    """Format one record; further lines of its message are indented."""
    at = datetime.fromtimestamp(int(row.get("__REALTIME_TIMESTAMP", 0)) / 1e6, UTC)
    priority = str(row.get("PRIORITY", ""))
    level = _LEVELS[int(priority)] if priority.isdecimal() and int(priority) < len(_LEVELS) else "-"
    first, *more = _message(row.get("MESSAGE")).splitlines() or [""]
    facts = "".join(f" {name}={plain(row[name])}" for name in _FIELDS if name in row)
    who = f"{plain(row.get('SYSLOG_IDENTIFIER', '-'))}[{plain(row.get('_PID', '-'))}]"
    return [f"{stamp(at)} {who} {level}: {plain(first)}{facts}", *(f"    {plain(line)}" for line in more)]


def _message(value: object) -> str:
    """Return text; journald gives bytes that are not text as a list of numbers, and null for what is too long."""
    if isinstance(value, list):
        return bytes(byte & 0xFF for byte in value if isinstance(byte, int)).decode(errors="replace")
    return "(too long)" if value is None else str(value)


def counts(paths: Paths) -> dict[str, Any]:
    """Count ledger, custody records, quarantine and the files of studies in flight. Raises OSError if this user may not read them."""
    return {
        **_records(paths),
        "quarantine": dict(Counter(entry.subject.kind for entry in read_entries(paths.quarantine))),
        "requests": _files(paths.requests),
        "incoming": _files(paths.incoming),
        "spool": _files(paths.spool),
        "staging": _files(paths.staging),
        "audit_queue": _files(paths.audit_queue),
    }


def _records(paths: Paths) -> dict[str, Any]:
    """Count ledger and custody records in either backend. Raises PeerDownError too."""
    shared = history_of(paths.config)
    if shared is None:
        return {"ledger": _ledger(paths.ledger), "custody": {"records": _files(paths.custody)["files"]}}
    return shared.counts()


def _ledger(folder: Path) -> dict[str, Any]:
    """Count records and events by kind, the newest segments first, up to 64 MiB."""
    kinds: Counter[str] = Counter()
    events: Counter[str] = Counter()
    first, last = "", ""
    damaged, read = 0, 0
    for content in contents(folder):
        read += len(content)
        for line in content.splitlines(keepends=True):
            record = parse_line(line)
            damaged += record is None
            if record is not None:
                kinds[record["kind"]] += 1
                if at := str(record.get("at", "")):
                    first, last = min(first or at, at), max(last, at)
                if record["kind"] == "event":
                    events[str(record.get("event"))] += 1
        if read > _LEDGER_BYTES:
            break
    return {
        **_files(folder),
        "bytes_read": read,
        "span": [first, last] if first else [],
        "records": dict(kinds),
        "events": dict(events),
        "damaged_lines": damaged,
    }


def _files(folder: Path) -> dict[str, int]:
    """Count files below a folder, and their bytes."""
    count = size = 0
    for inner, _folders, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(inner, name)).st_size  # noqa: PTH118 - a hundred thousand of them
            except FileNotFoundError:  # it was moved meanwhile
                continue
            count += 1
    return {"files": count, "bytes": size}
