"""The whole portal in one folder, for `ddwd try`: no root, no systemd, no PostgreSQL, the same Lua, SCP and extractor.

Written below the folder: ddwd.yaml (once; then it is the user's), credentials.json, the rendered Orthanc configuration,
one log for each of the four processes, and try.json, which stands for as long as all of them answer. Whatever the
caller's environment or /etc/default/ddwd say about settings is not heard: only the folder's own ddwd.yaml counts.
No supervisor: when one process dies, the caller stops the others.
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
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddwd.config import routing
from ddwd.config.loader import VARIABLES, load
from ddwd.config.paths import Paths
from ddwd.core import clock
from ddwd.core.durable import replace_file, replace_volatile
from ddwd.core.errors import ConfigError, DdwdError, PeerDownError, Problem
from ddwd.extractor.peers import silent
from ddwd.provisioning import credentials as passwords
from ddwd.provisioning.orthanc_config import PLUGIN_DIR, PYTHON_PLUGIN, RENDERED_NAME, render
from ddwd.store.status_files import EXTRACTOR, SCP, ExtractorStatus, ScpStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.config.loader import Config, NodeName

NODES: tuple[NodeName, ...] = ("gateway", "storage")
STOP_ORDER = (("extractor", 10.0), ("scp", 5.0), ("gateway", 10.0), ("storage", 10.0))
"""Who is told to stop, and how many seconds it has before it is killed; nothing acknowledged is lost by that."""

_SETTINGS = "ddwd.yaml"
_PORTS = 5
_PORT_RANGE = range(15000, 32000, 10)
"""Below the kernel's ephemeral ports, so that no outgoing connection takes one between the look and the start."""
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
storage:
  dicom_port: {2}
  http_port: {3}
scp:
  port: {4}
database:
  engine: sqlite
output_dir: {output_dir}
data_dir: {data_dir}
run_dir: {run_dir}
credentials_file: {credentials_file}
"""


def find_orthanc() -> Path:
    """Return Orthanc's binary; raises DdwdError that says what to install where it or its plugin is not there."""
    found = shutil.which("Orthanc", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None or not (PLUGIN_DIR / "libOrthancDicomWeb.so").exists():
        raise DdwdError(
            "ddwd try needs Orthanc and its DICOMweb plugin: apt install orthanc orthanc-dicomweb"
        )
    return Path(found)


def keeps_conflicts() -> bool:
    """Tell whether Orthanc's Python plugin is here, without which other content under a known UID is not kept."""
    return (PLUGIN_DIR / PYTHON_PLUGIN).exists()


def settings(folder: Path, port_base: int | None = None) -> Config:
    """Read the folder's ddwd.yaml, written first where there is none; raises ConfigError where it is not a trial's.

    The five ports are `port_base` and the four after it, or five free ones; a file that is there keeps its own.
    """
    path = folder / _SETTINGS
    if not path.exists():
        ports = free_ports() if port_base is None else range(port_base, port_base + _PORTS)
        places = {key: json.dumps(str(folder / name)) for key, name in _places().items()}
        replace_file(path, _YAML.format(*ports, **places).encode())
    config = load(path, {"DDWD_DEFAULTS": os.devnull})
    own = {key: folder / name for key, name in _places().items() if key != "output_dir"}
    if config.database.engine != "sqlite" or any(getattr(config, key) != own[key] for key in own):
        instead = "name another folder, or none for a fresh one"
        raise ConfigError(
            [Problem(str(path), None, "data_dir", "is not the file of a trial in this folder", instead)]
        )
    if config.tls.is_used:
        what = "a trial speaks plainly, on this machine alone"
        raise ConfigError([Problem(str(path), None, "tls", what, "leave it out, or install the portal")])
    return config


def _places() -> dict[str, str]:
    return {
        "output_dir": "received_dicom",
        "data_dir": "data",
        "run_dir": "run",
        "credentials_file": "credentials.json",
    }


def ports_of(config: Config) -> dict[str, int]:
    """Every port of the portal, by its key in ddwd.yaml."""
    ports = {
        f"{name}.{kind}": getattr(config.node(name), kind)
        for name in NODES
        for kind in ("dicom_port", "http_port")
    }
    return ports | {"scp.port": config.scp.port}


def is_free(port: int) -> bool:
    """Tell whether nothing listens on that TCP port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def free_ports() -> range:
    """Five ports in a row that nothing holds, reserved until this process ends: other trials that start at the same time choose others."""
    for _ in range(_TRIES):
        base = secrets.choice(_PORT_RANGE)
        ports = range(base, base + _PORTS)
        if _reserve(base) and all(map(is_free, ports)):
            return ports
    raise DdwdError("no five free ports in a row were found; name them with --port-base")


def _reserve(base: int) -> bool:
    """Take a name that only one process can have: an abstract Unix socket, which like a port belongs to the network namespace (unix(7))."""
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
    """One portal in `folder`: prepare, start, look, stop; a lock keeps a second one out of the folder."""

    folder: Path
    config: Config
    orthanc: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _lock: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def prepare(cls, folder: Path, port_base: int | None = None) -> Sandbox:
        """Lay out the folder and render both configurations; raises a DdwdError, ConfigError for a taken port."""
        orthanc = find_orthanc()
        folder = folder.resolve()  # settings take no `..`
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _locked(folder)
        try:
            sandbox = cls(folder, settings(folder, port_base), orthanc, _lock=lock)
            sandbox._check_ports()
            sandbox._lay_out()
        except BaseException:
            lock.close()
            raise
        return sandbox

    @property
    def file(self) -> Path:
        """Tells other programs where the portal is; stands from the moment that everything answers to the stop."""
        return self.folder / "try.json"

    def log(self, name: str) -> Path:
        """What that process says; begun anew at each start."""
        return self.folder / "log" / f"{name}.log"

    def facts(self) -> dict[str, Any]:
        """Content of try.json."""
        nodes: dict[str, object] = {
            node.name: {"aet": node.aet, "dicom_port": node.dicom_port, "http_port": node.http_port}
            for node in (self.config.gateway, self.config.storage)
        }
        return {
            **nodes,
            "output_dir": str(self.config.output_dir),
            "settings": str(self.folder / _SETTINGS),
            "credentials": str(self.config.credentials_file),
        }

    def start(self) -> None:
        """Start the four processes; `stop` must follow, whatever happens here."""
        rendered = {name: Paths(self.config).rendered(name) for name in NODES}
        for name in NODES:
            self._spawn(name, [str(self.orthanc), str(rendered[name])])
        for daemon in ("scp", "extractor"):
            code = f"import sys; from ddwd.daemon.{daemon} import main; sys.exit(main())"
            self._spawn(daemon, [sys.executable, "-P", "-c", code])

    def dead(self) -> str | None:
        """Name of a process that ended, None while all run."""
        return next((name for name, one in self.processes.items() if one.poll() is not None), None)

    def obituary(self, name: str) -> str:
        """How it ended, and its last log lines."""
        status = self.processes[name].returncode
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        with suppress(OSError):
            lines = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
            return "\n".join([f"{name} {how}; the end of {self.log(name)}:", *(f"  {one}" for one in lines)])
        return f"{name} {how}; it left no log"

    def missing(self) -> list[str]:
        """What does not answer yet, in words; nothing when the portal is up."""
        ports = [key for key, port in ports_of(self.config).items() if not _answers(port)]
        scp, extractor = self.scp_status(), self.extractor_status()
        beats = [f"{name} heartbeat" for name, one in (("scp", scp), ("extractor", extractor)) if not one.pid]
        return [*ports, *beats, *silent(extractor.peers)]

    def scp_status(self) -> ScpStatus:
        """The last status of this run's receiver; an empty one before its first heartbeat."""
        found = SCP.read_or_none(Paths(self.config).heartbeat("scp"))
        return found if found is not None and found.pid == self.processes["scp"].pid else ScpStatus()

    def extractor_status(self) -> ExtractorStatus:
        """The last status of this run's extractor; an empty one before its first heartbeat."""
        found = EXTRACTOR.read_or_none(Paths(self.config).heartbeat("extractor"))
        is_ours = found is not None and found.pid == self.processes["extractor"].pid
        return found if found is not None and is_ours else ExtractorStatus()

    def announce(self) -> None:
        """Write try.json."""
        replace_volatile(self.file, json.dumps(self.facts(), indent=2).encode() + b"\n")

    def stop(self) -> None:
        """End all processes, those that read first; returns within the sum of STOP_ORDER."""
        self.file.unlink(missing_ok=True)
        for name, limit in STOP_ORDER:
            if name == "gateway":
                self._tell(*NODES)
            self._tell(name)
            self._wait(name, limit)
        self._lock.close()

    def kill(self) -> None:
        """End all processes now."""
        for process in self.processes.values():
            process.kill()

    def _tell(self, *names: str) -> None:
        for name in names:
            if name in self.processes:
                self.processes[name].terminate()

    def _wait(self, name: str, limit: float) -> None:
        process = self.processes.get(name)
        if process is None:
            return
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _check_ports(self) -> None:
        """Say which ports are held, before an Orthanc dies of it; each at its key."""
        hint = "stop what holds it (ss -ltnp), or change it in this file"
        where = str(self.folder / _SETTINGS)
        problems = [
            Problem(where, None, key, f"port {port} is taken", hint)
            for key, port in ports_of(self.config).items()
            if not is_free(port)
        ]
        if problems:
            raise ConfigError(problems)

    def _lay_out(self) -> None:
        paths = Paths(self.config)
        self.file.unlink(missing_ok=True)
        for folder in self._folders(paths):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.config.credentials_file.exists():
            passwords.write(self.config.credentials_file, passwords.generate(), mode=0o600)
        login = passwords.read(self.config.credentials_file)
        replace_file(paths.routes, routing.rendered(self.config.routes))
        for name in NODES:
            paths.doorbell(name).touch()
            text = render(self.config, login, name, with_plugin=keeps_conflicts())
            replace_file(paths.rendered(name) / RENDERED_NAME, text.encode(), 0o600)

    def _folders(self, paths: Paths) -> Iterator[Path]:
        yield from (self.folder / "log", paths.output, paths.state, paths.requests, paths.quarantine)
        for name in NODES:
            yield from (paths.storage_area(name), paths.rendered(name), paths.additions(name))
            yield paths.conflicts(name)
        yield from (paths.doorbell("gateway").parent, paths.heartbeat("scp").parent)
        yield paths.heartbeat("extractor").parent

    def _spawn(self, name: str, argv: list[str]) -> None:
        """Start in a session of its own, so that Ctrl-C reaches us alone; it ends with us even if we are killed."""
        with self.log(name).open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*_dies_with_us(), *argv],
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


def _dies_with_us() -> list[str]:
    setpriv = shutil.which("setpriv")  # util-linux
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _locked(folder: Path) -> ExitStack:
    """Hold the folder until closed; raises DdwdError where another trial runs in it."""
    stack = ExitStack()
    file = stack.enter_context((folder / ".lock").open("ab"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stack.close()
        raise DdwdError(f"{folder}: another `ddwd try` runs in this folder") from None
    return stack


def wait_up(sandbox: Sandbox, seconds: float = 60.0) -> bool:
    """Wait until everything answers; False when a process ended. Raises PeerDownError when it takes too long."""
    now = clock.SystemClock().monotonic
    deadline = now() + seconds
    missing = sandbox.missing()
    while missing:
        if sandbox.dead():
            return False
        if now() > deadline:
            raise PeerDownError(
                f"not up after {seconds:.0f} s: {', '.join(missing)}; see {sandbox.folder}/log"
            )
        clock.sleep(0.1)
        missing = sandbox.missing()
    sandbox.announce()
    return True
