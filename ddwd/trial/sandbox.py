"""Run the whole portal in one folder, for `ddwd try`: without root, systemd and PostgreSQL, with the same Lua, SCP and extractor.

Writes below the folder: ddwd.yaml (once; the user may edit it), credentials.json, the rendered Orthanc configuration, one log for each
of the four processes, and try.json, which exists while all of them answer. Settings in the caller's environment and in
/etc/default/ddwd are ignored: only the folder's ddwd.yaml counts. There is no supervisor: if one process ends, the caller stops the
others.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from ddwd.config import routing
from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.config.schema import VARIABLES, value_of
from ddwd.core import clock, durable, safe_folder
from ddwd.core.durable import replace_file, replace_volatile
from ddwd.core.errors import ConfigError, ConfigProblem, DdwdError, InvalidValueError, PeerDownError
from ddwd.extractor.peers import silent
from ddwd.provisioning import credentials as passwords
from ddwd.provisioning.orthanc_config import PLUGIN_DIR, PYTHON_PLUGIN, RENDERED_NAME, render
from ddwd.store.status_files import EXTRACTOR, SCP, ExtractorStatus, ScpStatus

if TYPE_CHECKING:
    from ddwd.config.schema import Config, NodeName

NODES: tuple[NodeName, ...] = ("gateway", "storage")
STOP_ORDER = ((("extractor",), 10.0), (("acceptor", "scp"), 5.0), (NODES, 10.0))
"""The processes that are stopped together, in order, and how many seconds each has before it is killed; no acknowledged image is lost by that."""

_SETTINGS = "ddwd.yaml"
_PLACES = {
    "output_dir": "received_dicom",
    "data_dir": "data",
    "run_dir": "run",
    "credentials_file": "credentials.json",
}
"""Paths in the folder, by their setting."""
_PORT_KEYS = (
    "gateway.dicom_port", "gateway.http_port", "storage.dicom_port", "storage.http_port", "scp.port", "gateway.orthanc_port",
)  # fmt: skip
_PORTS = len(_PORT_KEYS)
_PORT_RANGE = range(15000, 32000, 10)
"""Below the kernel's ephemeral ports, so that no outgoing connection takes one between the check and the start."""
_TRIES = 50
_reserved: list[socket.socket] = []
_CONNECT_SECONDS = 0.5
_LAST_LINES = 15

_YAML = """\
# The settings of this trial of the portal, written once by `ddwd try`; edit them, then run it again on this folder.
# Every key is explained in /etc/ddwd/ddwd.yaml of an installed portal (etc/ddwd.yaml of a clone).
gateway:
  dicom_port: {0}
  http_port: {1}
  orthanc_port: {5}
storage:
  dicom_port: {2}
  http_port: {3}
scp:
  port: {4}
# The plugin of Orthanc that notifies the extractor of each image is not on every machine.
poll_interval: 0.5
database:
  engine: sqlite
output_dir: {output_dir}
data_dir: {data_dir}
run_dir: {run_dir}
credentials_file: {credentials_file}
"""


def find_orthanc() -> Path:
    """Return the path of Orthanc's program. Raises DdwdError, which says what to install, if it or its plugin is missing."""
    found = shutil.which("Orthanc", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None or not (PLUGIN_DIR / "libOrthancDicomWeb.so").exists():
        raise DdwdError(
            "ddwd try needs Orthanc and its DICOMweb plugin: apt install orthanc orthanc-dicomweb"
        )
    return Path(found)


def keeps_conflicts() -> bool:
    """Return whether Orthanc's Python plugin is installed; without it other content under a known UID is dropped."""
    return (PLUGIN_DIR / PYTHON_PLUGIN).exists()


def settings(folder: Path, port_base: int | None = None) -> Config:
    """Return the settings in the folder's ddwd.yaml, which is written if it is missing. Raises ConfigError if it is not a trial's.

    The six ports are `port_base` and the five after it, or six free ones; an existing file keeps its ports.
    """
    path = folder / _SETTINGS
    if not path.exists():
        ports = free_ports() if port_base is None else range(port_base, port_base + _PORTS)
        places = {key: json.dumps(str(folder / name)) for key, name in _PLACES.items()}
        replace_file(path, _YAML.format(*ports, **places).encode())
    config = load(path, {"DDWD_DEFAULTS": os.devnull})
    own = {key: folder / name for key, name in _PLACES.items() if key != "output_dir"}
    if config.database.engine != "sqlite" or any(getattr(config, key) != own[key] for key in own):
        what = "is not the file of a trial in this folder"
        instead = "name another folder, or none for a new one"
        raise ConfigError([ConfigProblem(str(path), None, "data_dir", what, instead)])
    if config.tls.is_used:
        what = "a trial uses no TLS, since it connects within this machine only"
        raise ConfigError(
            [ConfigProblem(str(path), None, "tls", what, "leave it out, or install the portal")]
        )
    return config


def ports_of(config: Config) -> dict[str, int]:
    """Return every port of the portal, by its key in ddwd.yaml."""
    return {key: cast("int", value_of(config, key)) for key in _PORT_KEYS}


def is_free(port: int) -> bool:
    """Return whether no process listens on that TCP port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def free_ports() -> range:
    """Return six free ports in a row, reserved until this process ends: trials that start at the same time choose other ports.

    Raises DdwdError if none are found.
    """
    for _ in range(_TRIES):
        base = secrets.choice(_PORT_RANGE)
        ports = range(base, base + _PORTS)
        if _reserve(base) and all(map(is_free, ports)):
            return ports
    raise DdwdError("no six free ports in a row were found; name them with --port-base")


def _reserve(base: int) -> bool:
    """Reserve the ports from `base` by an abstract Unix socket, which only one process in the network namespace can bind (unix(7))."""
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0ddwd-try-{base}")
    except OSError:
        name.close()
        return False
    _reserved.append(name)
    return True


@dataclass(slots=True)
class Sandbox:
    """One portal in `folder`: prepare, start, check, stop. A lock keeps a second one out of the folder."""

    folder: Path
    config: Config
    orthanc: Path
    _lock: IO[bytes]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @classmethod
    def prepare(cls, folder: Path, port_base: int | None = None) -> Sandbox:
        """Make the folders and render both configurations. Raises a DdwdError; ConfigError if a port is in use."""
        orthanc = find_orthanc()
        _assert_own(folder)
        folder = folder.resolve()  # settings take no `..`
        durable.make_dirs(folder, 0o700)
        lock = _locked(folder)
        try:
            sandbox = cls(folder, settings(folder, port_base), orthanc, lock)
            sandbox._check_ports()
            sandbox._lay_out()
        except BaseException:
            lock.close()
            raise
        return sandbox

    @property
    def file(self) -> Path:
        """File that describes the portal to other programs; it exists from when all parts answer until the stop."""
        return self.folder / "try.json"

    def log(self, name: str) -> Path:
        """Return the log of that process, which each start overwrites."""
        return self.folder / "log" / f"{name}.log"

    def facts(self) -> dict[str, Any]:
        """Return the content of try.json."""
        nodes: dict[str, Any] = {
            node.name: {"aet": node.aet, "dicom_port": node.dicom_port, "http_port": node.http_port}
            for node in (self.config.gateway, self.config.storage)
        }
        return nodes | {
            "output_dir": str(self.config.output_dir),
            "settings": str(self.folder / _SETTINGS),
            "credentials": str(self.config.credentials_file),
        }

    def start(self) -> None:
        """Start the five processes; the caller must call `stop`, even if this raises."""
        for name in NODES:
            self._spawn(name, [str(self.orthanc), str(Paths(self.config).rendered(name))])
        for daemon in ("acceptor", "scp", "extractor"):
            code = f"import sys; from ddwd.daemon.{daemon} import main; sys.exit(main())"
            self._spawn(daemon, [sys.executable, "-P", "-c", code])

    def dead(self) -> str | None:
        """Return the name of a process that ended, or None while all run."""
        return next((name for name, process in self.processes.items() if process.poll() is not None), None)

    def exit_report(self, name: str) -> str:
        """Return how that process ended, and its last log lines."""
        status = self.processes[name].returncode
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        with suppress(OSError):
            lines = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
            return "\n  ".join([f"{name} {how}; the end of {self.log(name)}:", *lines])
        return f"{name} {how}; it wrote no log"

    def missing(self) -> list[str]:
        """Return the names of the ports, heartbeats and peers that do not answer yet; empty once the portal is up."""
        ports = [key for key, port in ports_of(self.config).items() if not _answers(port)]
        extractor = self.extractor_status()
        pids = {"scp": self.scp_status().pid, "extractor": extractor.pid}
        heartbeats = [f"{name} heartbeat" for name, pid in pids.items() if not pid]
        return [*ports, *heartbeats, *silent(extractor.peers)]

    def scp_status(self) -> ScpStatus:
        """Return the last status of this run's receiver; an empty one before its first heartbeat."""
        found = SCP.read_or_none(Paths(self.config).heartbeat("scp"))
        return found if found and found.pid == self.processes["scp"].pid else ScpStatus()

    def extractor_status(self) -> ExtractorStatus:
        """Return the last status of this run's extractor; an empty one before its first heartbeat."""
        found = EXTRACTOR.read_or_none(Paths(self.config).heartbeat("extractor"))
        return found if found and found.pid == self.processes["extractor"].pid else ExtractorStatus()

    def stop(self) -> None:
        """Stop all processes, those that read from others first; returns within 35 s (STOP_ORDER)."""
        self.file.unlink(missing_ok=True)
        for names, limit in STOP_ORDER:
            processes = [self.processes[name] for name in names if name in self.processes]
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(limit)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._lock.close()

    def kill(self) -> None:
        """Kill all processes now."""
        for process in self.processes.values():
            process.kill()

    def _check_ports(self) -> None:
        """Raise ConfigError, which names each port in use and its key, before an Orthanc fails because of it."""
        hint = "stop the program that uses it (ss -ltnp), or change it in this file"
        where = str(self.folder / _SETTINGS)
        problems = [
            ConfigProblem(where, None, key, f"port {port} is taken", hint)
            for key, port in ports_of(self.config).items()
            if not is_free(port)
        ]
        if problems:
            raise ConfigError(problems)

    def _lay_out(self) -> None:
        paths = Paths(self.config)
        self.file.unlink(missing_ok=True)
        folders = [self.folder / "log", paths.output, paths.state, paths.requests, paths.quarantine]
        files = [
            paths.doorbell("gateway"),
            paths.heartbeat("acceptor"),
            paths.heartbeat("scp"),
            paths.heartbeat("extractor"),
        ]
        folders += [file.parent for file in files]
        for of_node in (paths.storage_area, paths.rendered, paths.additions, paths.conflicts):
            folders += map(of_node, NODES)
        for folder in folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.config.credentials_file.exists():
            passwords.write(self.config.credentials_file, passwords.generate(), mode=0o600)
        passwords.add_missing(self.config.credentials_file)
        login = passwords.read(self.config.credentials_file)
        replace_file(paths.routes, routing.rendered(self.config.routes))
        for name in NODES:
            paths.doorbell(name).touch()
            text = render(self.config, login, name, with_plugin=keeps_conflicts())
            replace_file(paths.rendered(name) / RENDERED_NAME, text.encode(), 0o600)

    def _spawn(self, name: str, argv: list[str]) -> None:
        """Start a process in a session of its own, so that only this process gets Ctrl-C; it ends if this process is killed."""
        setpriv = shutil.which("setpriv")  # util-linux
        prefix = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
        with self.log(name).open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*prefix, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment(),
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        inherited = {
            key: value for key, value in os.environ.items() if key not in VARIABLES and key != "NOTIFY_SOCKET"
        }
        package = Path(__file__).resolve().parents[2]
        return inherited | {
            "DDWD_CONFIG": str(self.folder / _SETTINGS),
            "DDWD_DEFAULTS": os.devnull,
            "TCP_NODELAY": "1",  # DCMTK reads it
            "PYTHONPATH": os.pathsep.join([str(package), *filter(None, sys.path)]),
        }


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _assert_own(folder: Path) -> None:
    """Raise InvalidValueError, for root, where another user can change what is at the path; whatever is there yet, or not."""
    whole = folder.absolute()
    there = next(place for place in (whole, *whole.parents) if os.path.lexists(place))
    if os.geteuid() == 0 and (place := safe_folder.foreign(there)) is not None:
        raise InvalidValueError(
            f"{place} can be replaced by another user, and root would write there: choose a folder of root's, or run it as that user"
        )


def _locked(folder: Path) -> IO[bytes]:
    """Return a lock on the folder, which ends when it is closed. Raises DdwdError if another trial runs in it."""
    file = (folder / ".lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise DdwdError(f"{folder}: another `ddwd try` runs in this folder") from None
    return file


def wait_up(sandbox: Sandbox, seconds: float = 60.0) -> bool:
    """Wait until all parts answer, then write try.json; return False if a process ended. Raises PeerDownError after `seconds`."""
    now = clock.SystemClock().monotonic
    deadline = now() + seconds
    while missing := sandbox.missing():
        if sandbox.dead():
            return False
        if now() > deadline:
            raise PeerDownError(
                f"not up after {seconds:.0f} s: {', '.join(missing)}; see {sandbox.folder}/log"
            )
        clock.sleep(0.1)
    replace_volatile(sandbox.file, json.dumps(sandbox.facts(), indent=2).encode() + b"\n")
    return True
