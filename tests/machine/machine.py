"""One booted Debian 13 machine: an overlay over the image, its own network, systemd as its PID 1.

Everything it owns lies in one folder of the cache (`machines/ID/`) and one cgroup, so it can be killed and cleaned by
what it started alone; a folder whose owner died is swept by the next machine. Used by the demo, tests/appliance and
tests/faults.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tests.machine.host import MachineError, cache_folder, give_back
from tests.machine.image import ensure_image
from tests.machine.modality import Modality
from tests.machine.network import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType, TracebackType

BOOT_LIMIT = 120.0
INBOX = "/srv"  # where the host puts files into the machine
SETTLED = ("running", "degraded")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root", "LANG": "C.UTF-8", "TERM": "xterm-256color", "DEBIAN_FRONTEND": "noninteractive",
}  # fmt: skip
HTTP_PORTS = {"gateway": 8042, "storage": 8043}
_READS_JOURNAL = re.compile(r"\bjournalctl\b|\bddwd (trace|prove|support-bundle)\b")

T = TypeVar("T")
_SHUTDOWN_SECONDS = 240
"""An Orthanc whose database is gone stops only at its TimeoutStopSec, one after the other."""

_alive: set[Machine] = set()


def machines_folder() -> Path:
    """Return where the machines of this cache live."""
    return cache_folder() / "machines"


class Machine:
    """A throw-away appliance; a context manager that boots on entry and leaves nothing behind.

    `kept` machines (make appliance) survive this process and are ended by `attach(ID).stop()`. `volumes` gives folders inside a
    file system of their own, of that size (say, "1g"): a tmpfs of the host's, so that it outlives restarts of the machine. `shares`
    are folders of the host that stand inside, and in other machines at the same time. `beside`: on that machine's LAN. `layer`: what
    stands over the image from the beginning (tests/machine/installed.py).
    """

    def __init__(
        self,
        *,
        kept: bool = False,
        volumes: Mapping[str, str] | None = None,
        shares: Mapping[str, Path] | None = None,
        beside: Machine | None = None,
        layer: Path | None = None,
    ) -> None:
        if os.geteuid() != 0:
            msg = "booting a machine needs root"
            raise MachineError(msg)
        self.image = ensure_image()
        sweep()
        self.kept = kept
        self.volumes = dict(volumes or {})
        self.shares = dict(shares or {})
        self.lan: Network | None = beside.network if beside else None
        self.layer = layer
        self.ident, self._owned = _claim()
        self._prepare()

    def _prepare(self) -> None:
        self.folder = machines_folder() / self.ident
        self.root = self.folder / "root"
        self.network: Network = Network(self.folder, self.lan)
        self.modality = Modality(self.image, self.network, _cgroup2() / f"ddwd-{self.ident}-modality")
        self.leader = 0
        self._nspawn: subprocess.Popen[bytes] | None = None

    @classmethod
    def attach(cls, ident: str) -> Machine:
        """Return the kept machine IDENT. Raises MachineError where it does not run any more."""
        record = _record(ident)
        machine = cls.__new__(cls)
        machine.image, machine.kept, machine.ident, machine._owned = Path(record["image"]), True, ident, None
        machine.volumes, machine.shares, machine.lan, machine.layer = {}, {}, None, None
        machine._prepare()
        machine.leader = int(record["leader"])
        if not _runs(record):
            msg = f"machine {ident} does not run any more"
            raise MachineError(msg)
        return machine

    # --- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Lay the overlay, make the network, boot."""
        _clean_up_at_exit()
        _alive.add(self)
        try:
            self._lay()
            self.boot()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it and remove its folder, unless it is kept and came up."""
        if not self.kept or kind is not None:
            self.stop()

    def _lay(self) -> None:
        for name in ("root", "upper", "work"):
            (self.folder / name).mkdir(parents=True)
        lower = [layer for layer in (self.layer, self.image) if layer]
        layers = (
            f"lowerdir={':'.join(map(str, lower))},upperdir={self.folder}/upper,workdir={self.folder}/work"
        )
        mount = ["mount", "-t", "overlay", f"ddwd-{self.ident}", "-o", layers, str(self.root)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            # a cache on a file system that cannot carry an upper layer: a full copy does the same, slower
            if self.layer:
                msg = f"{self.folder} is on a file system that carries no overlay, which an installed machine needs"
                raise MachineError(msg)
            subprocess.run(["cp", "-a", "--reflink=auto", f"{self.image}/.", str(self.root)], check=True)
        if self.layer:
            # each machine has its own identity; an empty file would be a first boot, with all units as Debian presets them
            (self.root / "etc/machine-id").write_text(secrets.token_hex(16) + "\n", encoding="ascii")
        for inside, size in self.volumes.items():
            volume = self._volume(inside)
            volume.mkdir(parents=True)
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "ddwd", str(volume)], check=True
            )
        self.network.create()

    def _volume(self, inside: str) -> Path:
        return self.folder / "volumes" / inside.strip("/").replace("/", "-")

    def boot(self) -> None:
        """Boot and wait until systemd has settled. Raises MachineError with the console's end if it does not."""
        self._cgroup.mkdir(exist_ok=True)
        with (self.folder / "console.log").open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self._cgroup), *self._command()],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )  # fmt: skip
        self.leader = self._within(BOOT_LIMIT, self._find_leader, "start its PID 1")
        self._within(BOOT_LIMIT, self._has_settled, "settle")
        self._remember()

    def _command(self) -> list[str]:
        return [
            "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=read-only",
            f"--directory={self.root}", f"--machine=ddwd-{self.ident}", "--hostname=ddwd",
            f"--network-namespace-path={self.network.machine}",
            # for nftables; and for SocketBindDeny= and IPAddressDeny=, which systemd enforces by programs in the kernel
            "--capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON", "--system-call-filter=bpf",
            *(f"--bind={self._volume(inside)}:{inside}" for inside in self.volumes),
            *(f"--bind={there}:{inside}" for inside, there in self.shares.items()),
            "--resolv-conf=off", "--timezone=off", "--link-journal=no",
        ]  # fmt: skip

    def reboot(self) -> None:
        """Shut down in order and boot again; the disk is kept (nspawn ends with 133 on a reboot)."""
        self.run(["systemctl", "--no-block", "reboot"])
        self._ended(_SHUTDOWN_SECONDS)
        self.boot()

    def shut_down(self) -> None:
        """Shut down in order; the disk is kept."""
        self.run(["systemctl", "--no-block", "poweroff"])
        self._ended(_SHUTDOWN_SECONDS)

    def unmount(self) -> Path:
        """Unmount the disk of a machine that has ended, and return the folder with what differs from the image."""
        subprocess.run(["umount", str(self.root)], check=True)
        return self.folder / "upper"

    def crash(self) -> None:
        """Kill every process of the machine at one blow (the files stay as they are) and boot again."""
        self.kill()
        self.boot()

    def kill(self) -> None:
        """Kill every process of the machine at one blow; boot() brings it up again on the same disk."""
        with contextlib.suppress(OSError):
            (self._cgroup / "cgroup.kill").write_text("1", encoding="ascii")
        if self.leader and _started_at(self.leader):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.leader, signal.SIGKILL)
        self._ended(30)

    def stop(self) -> None:
        """Kill the machine and remove all that it had on the host. Safe to call twice."""
        self.modality.stop()
        self.kill()
        _alive.discard(self)
        _remove(self.ident)
        if self._owned is not None:
            self._owned.close()
            self._owned = None

    def _ended(self, limit: float) -> None:
        def gone() -> bool:
            if self._nspawn is not None:
                return self._nspawn.poll() is not None
            return not _started_at(self.leader)

        _until(limit, gone, f"machine {self.ident} did not end")
        _remove_cgroup(self._cgroup)
        _remove_export(self.ident)
        self.leader = 0

    def _within(self, limit: float, question: Callable[[], int], what: str) -> int:
        def answer() -> int:
            if self._nspawn is not None and self._nspawn.poll() is not None:
                msg = f"machine {self.ident} ended while it was to {what}:\n{self.console()}"
                raise MachineError(msg)
            return question()

        return _until(limit, answer, f"machine {self.ident} did not {what}", self.console)

    def _find_leader(self) -> int:
        """Return the process that is PID 1 inside; 0 while there is none."""
        for processes in self._cgroup.glob("**/cgroup.procs"):
            for pid in _lines(processes):
                if _is_first(int(pid)):
                    return int(pid)
        return 0

    def _has_settled(self) -> bool:
        state = self.run(["systemctl", "is-system-running"], check=False, timeout=30).stdout.strip()
        return state in SETTLED

    @property
    def _cgroup(self) -> Path:
        return _cgroup2() / f"ddwd-{self.ident}"

    def _remember(self) -> None:
        record = {"image": str(self.image), "kept": self.kept, "leader": self.leader}
        record["started"] = _started_at(self.leader)
        (self.folder / "machine.json").write_text(json.dumps(record), encoding="utf-8")

    def console(self) -> str:
        """Return the end of what the machine printed while it booted."""
        with contextlib.suppress(OSError):
            return (self.folder / "console.log").read_text(encoding="utf-8", errors="replace")[-3000:]
        return ""

    # --- inside ------------------------------------------------------------------------------------------------------

    def argv(
        self, command: Sequence[str], *, user: str = "root", env: Mapping[str, str] | None = None
    ) -> list[str]:
        """Return the host command that runs COMMAND inside, in all of the machine's namespaces."""
        inside = [f"{name}={value}" for name, value in (ENVIRONMENT | dict(env or {})).items()]
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        drop = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return [*enter, "env", "-i", *inside, *drop, *command]

    def run(
        self, command: Sequence[str] | str, *, check: bool = True, timeout: float = 120, user: str = "root",
        stdin: str = "", env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run COMMAND inside (a string goes through `sh -c`) and return its output; `timeout` in seconds.

        Raises CalledProcessError with check, noting the end of both outputs, and TimeoutExpired.
        """
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        if _READS_JOURNAL.search(" ".join(words)):
            # what was sent to journald a moment before is in its files only then
            subprocess.run(
                self.argv(["timeout", "30", "journalctl", "--sync"]), check=False, capture_output=True
            )
        # timeout(1) inside ends the command itself, which killing nsenter would not
        bounded = ["timeout", "-k", "5", str(timeout), *words]
        done = subprocess.run(
            self.argv(bounded, user=user, env=env), input=stdin, capture_output=True, text=True, errors="replace",
            timeout=timeout + 15, check=False,
        )  # fmt: skip
        if check and done.returncode:
            failed = subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
            failed.add_note((done.stdout + done.stderr)[-4000:])
            raise failed
        return done

    def path(self, inside: str | Path) -> Path:
        """Return the host's path of a file inside (disk only: /run and /tmp are the machine's own memory)."""
        for volume in self.volumes:
            if Path(inside).is_relative_to(volume):
                return self._volume(volume) / Path(inside).relative_to(volume)
        for share, there in self.shares.items():
            if Path(inside).is_relative_to(share):
                return there / Path(inside).relative_to(share)
        return self.root / str(inside).lstrip("/")

    def copy_in(self, source: Path, inside: str) -> None:
        """Copy a host file or folder to the path INSIDE."""
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", "--no-preserve=ownership", str(source), str(target)], check=True)

    def copy_out(self, inside: str, target: Path) -> None:
        """Copy a file or folder from INSIDE to the host."""
        subprocess.run(["cp", "-a", str(self.path(inside)), str(target)], check=True)

    def install(self, deb: Path, *, timeout: float = 300) -> str:
        """Install the .deb as an operator does (`apt install ./x.deb`); return apt's output."""
        self.copy_in(deb, f"{INBOX}/{deb.name}")
        command = ["apt-get", "install", "-y", "--reinstall", "--allow-downgrades", f"./{deb.name}"]
        done = self.run(["sh", "-c", f'cd {INBOX} && exec "$0" "$@" 2>&1', *command], timeout=timeout)
        return done.stdout

    def is_active(self, *units: str) -> bool:
        """Tell whether every unit is active."""
        # its exit status is 0 as soon as one of several is active, so the answers are read
        states = self.run(["systemctl", "is-active", *units], check=False).stdout.split()
        return len(states) == len(units) and set(states) == {"active"}

    def show(self, unit: str, name: str) -> str:
        """Return one property of a unit, as `systemctl show` has it (say, MainPID)."""
        return self.run(["systemctl", "show", "--value", "-p", name, unit]).stdout.strip()

    def journal(self, *units: str, lines: int = 200) -> str:
        """Return the end of the journal of the given units (all where none is given)."""
        chosen = [word for unit in units for word in ("-u", unit)]
        return self.run(["journalctl", "--no-pager", "-o", "short-precise", "-n", str(lines), *chosen]).stdout

    def wait_for(self, question: Callable[[], Any], *, limit: float, what: str, every: float = 0.25) -> float:
        """Ask until QUESTION is true; return the seconds it took. Raises MachineError after `limit` seconds."""
        began = time.monotonic()
        _until(limit, question, what, lambda: self.journal(lines=60), every=every)
        return time.monotonic() - began

    # --- Orthanc -----------------------------------------------------------------------------------------------------

    def credentials(self, node: str, user: str = "admin") -> str:
        """Return "user:password" of one Orthanc ("gateway" or "storage"), as the install generated it."""
        known = json.loads(self.path("/etc/ddwd/credentials.json").read_text(encoding="utf-8"))
        return f"{user}:{known[node][user]}"

    def http_status(self, node: str, path: str = "/system", login: str = "") -> int:
        """Return the HTTP status one Orthanc gives to a call from inside the machine; 0 where nothing answers."""
        return int(self._curl(node, path, login, '-o "/dev/null"\n-w "%{http_code}"\n', check=False) or 0)

    def rest(self, node: str, path: str, *, method: str = "GET", body: Any = None, login: str = "") -> Any:
        """Call one Orthanc from inside; return the JSON it answered (None where it was empty).

        Raises CalledProcessError where the status is not 2xx.
        """
        options = f"-X {method}\n--fail-with-body\n"
        if body is not None:
            text = body if isinstance(body, str) else json.dumps(body)
            options += "data = " + json.dumps(text) + "\n"
        answer = self._curl(node, path, login or self.credentials(node), options)
        return json.loads(answer) if answer.strip() else None

    def _curl(self, node: str, path: str, login: str, options: str, *, check: bool = True) -> str:
        # the options go by standard input, so that no password stands in a process list
        named = f'-u "{login}"\n' if login else ""
        url = f'url = "http://127.0.0.1:{HTTP_PORTS[node]}{path}"\n'
        return self.run(
            ["curl", "-s", "-S", "-m", "60", "-K", "-"], stdin=url + named + options, check=check
        ).stdout


# --- what is on the host ---------------------------------------------------------------------------------------------


def sweep() -> None:
    """Remove what machines left whose owner was killed; running ones of other owners stay."""
    for lock in machines_folder().glob("*.lock"):
        with contextlib.suppress(OSError), lock.open("r+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            record = _record(lock.stem, missing_ok=True)
            if not (record.get("kept") and _runs(record)):
                _remove(lock.stem)


def running() -> list[str]:
    """Return the IDs of the kept machines that run."""
    idents = (path.stem for path in sorted(machines_folder().glob("*.lock")))
    return [
        ident for ident in idents if (found := _record(ident, missing_ok=True)).get("kept") and _runs(found)
    ]


def accounts() -> Iterator[tuple[str, str]]:
    """ID and account of each machine of this process that runs: units that failed, and the end of the journal."""
    ask = "systemctl --failed --plain --no-legend; journalctl --no-pager -o short-precise -n 300"
    for machine in list(_alive):
        try:
            yield machine.ident, machine.run(ask, check=False, timeout=30).stdout
        except (OSError, subprocess.SubprocessError) as error:
            yield machine.ident, f"does not answer: {error}"


def _claim() -> tuple[str, Any]:
    """Return a fresh ID and the open, locked file that says its owner lives."""
    machines_folder().mkdir(parents=True, exist_ok=True)
    while True:
        ident = secrets.token_hex(3)
        with contextlib.suppress(OSError):
            handle = (machines_folder() / f"{ident}.lock").open("x")
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle.fileno()).st_nlink:
                return ident, handle


def _record(ident: str, *, missing_ok: bool = False) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(
            (machines_folder() / ident / "machine.json").read_text(encoding="utf-8")
        )
    except FileNotFoundError:
        if missing_ok:
            return {}
        msg = f"there is no machine {ident}"
        raise MachineError(msg) from None
    return found


def _runs(record: Mapping[str, Any]) -> bool:
    started = _started_at(int(record["leader"]))
    return bool(started) and started == record["started"]


def _remove(ident: str) -> None:
    """Unmount and delete everything of machine IDENT; its processes are killed where any are left."""
    folder = machines_folder() / ident
    remove_cgroups(ident)
    Network(folder).destroy()
    subprocess.run(["umount", "-l", str(folder / "root")], capture_output=True, check=False)
    for volume in (folder / "volumes").glob("*"):
        subprocess.run(["umount", "-l", str(volume)], capture_output=True, check=False)
    if (folder / "root").is_mount():
        msg = f"{folder}/root cannot be unmounted"
        raise MachineError(msg)
    shutil.rmtree(folder, ignore_errors=True)
    (machines_folder() / f"{ident}.lock").unlink(missing_ok=True)


def remove_cgroups(ident: str) -> None:
    """Kill what is left of machine IDENT and its modality, and remove their cgroups."""
    for cgroup in (_cgroup2() / f"ddwd-{ident}", _cgroup2() / f"ddwd-{ident}-modality"):
        with contextlib.suppress(OSError):
            (cgroup / "cgroup.kill").write_text("1", encoding="ascii")
        _remove_cgroup(cgroup)
    _remove_export(ident)


def _remove_export(ident: str) -> None:
    """Remove the folder for a machine's sockets, which systemd-nspawn has since 256: one that was killed leaves it, and none starts over it."""
    folder = Path("/run/systemd/nspawn/unix-export", f"ddwd-{ident}")
    if folder.is_dir():
        subprocess.run(["umount", "--lazy", str(folder)], stderr=subprocess.DEVNULL, check=False)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _remove_cgroup(cgroup: Path) -> None:
    """Remove a cgroup and all below it, once its processes are gone (a few tenths of a second after a kill)."""

    def removed() -> bool:
        for folder in [*sorted(cgroup.glob("**/"), reverse=True), cgroup]:
            with contextlib.suppress(OSError):
                folder.rmdir()
        return not cgroup.exists()

    _until(15, removed, f"{cgroup} has processes left")


def _cgroup2() -> Path:
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _device, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    msg = "this host mounts no cgroup2 hierarchy, which systemd in the machine needs"
    raise MachineError(msg)


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii").split()
    return []


def _is_first(pid: int) -> bool:
    """Tell whether a process is PID 1 of a namespace below ours and has become systemd (nspawn's stub is over)."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        inner = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
        return (
            len(inner) > 1
            and inner[-1] == "1"
            and "nspawn" not in Path(f"/proc/{pid}/comm").read_text("ascii")
        )
    return False


def _started_at(pid: int) -> str:
    """Return the start time of a process (clock ticks, field 22 of /proc/PID/stat); "" where it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""


def _until(
    limit: float,
    question: Callable[[], T],
    complaint: str,
    detail: Callable[[], str] = str,
    every: float = 0.1,
) -> T:
    deadline = time.monotonic() + limit
    while not (answer := question()):
        if time.monotonic() > deadline:
            msg = f"{complaint} within {limit:.0f} s\n{detail()}".rstrip()
            raise MachineError(msg)
        time.sleep(every)
    return answer


def _clean_up_at_exit() -> None:
    if _alive:
        return
    atexit.register(give_back)
    atexit.register(_stop_all)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _leave)


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _stop_all() -> None:
    for machine in list(_alive):
        if not machine.kept:
            machine.stop()
