"""`ddwd try [DIR]`: run the whole portal in the foreground, in one folder, as any user.

DIR (by default a new folder below the temporary one) holds every file, and is kept.
"""

import signal
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import TextIO, TypedDict

from ddwd.cli.command import Argument, Command
from ddwd.config.schema import Config
from ddwd.core import clock
from ddwd.core.answers import Key, printed
from ddwd.core.errors import DdwdError
from ddwd.extractor.peers import silent
from ddwd.trial.sandbox import Sandbox, keeps_conflicts, wait_up

_LOOK_SECONDS = 0.2
_DIED = 1
_STOPPERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _port_base(text: str) -> int:
    """Parse the first of six ports. Raises ValueError, which argparse reports as wrong usage."""
    port = int(text)
    if not 1 <= port <= 65535 - 4:
        raise ValueError(text)
    return port


class _Node(TypedDict):
    aet: str
    dicom_port: int
    http_port: int


class _Screen:
    """One line that changes on a terminal; otherwise a new line for each change."""

    def __init__(self, out: TextIO, *, quiet: bool) -> None:
        self._out = out
        self._quiet = quiet
        self._live = out.isatty() and not quiet
        self._last = ""

    def up(self, sandbox: Sandbox) -> None:
        """Write how to use the portal that now runs; as JSON for programs."""
        facts = sandbox.facts()
        if self._quiet:
            self._out.write(printed(COMMAND.name, facts, well=True))
            self._out.flush()
            return
        gateway = facts["gateway"]
        self.say(
            "up; send to it, from this machine or another:\n"
            f"  dcmsend +sd +r -aec {gateway['aet']} 127.0.0.1 {gateway['dicom_port']} FOLDER\n"
            f"  web pages   http://127.0.0.1:{gateway['http_port']} (gateway), "
            f"http://127.0.0.1:{facts['storage']['http_port']} (storage); "
            f"user admin, passwords in {facts['credentials']}\n"
            f"  output      {facts['output_dir']}\n"
            f"  settings    {facts['settings']}\n"
            f"  logs        {sandbox.folder}/log\n"
            "Ctrl-C stops it."
        )
        if not keeps_conflicts():
            self.say(
                "Orthanc's Python plugin is missing (apt install orthanc-python): of two images with the same UID but "
                "different content only the first is kept"
            )

    def line(self, text: str) -> None:
        """Show the newest state."""
        if text != self._last:
            self._last = text
            self.say(text, end="" if self._live else "\n")

    def say(self, text: str, end: str = "\n") -> None:
        """Write lines that stay."""
        if not self._quiet:
            self._out.write(("\r\033[K" if self._live else "") + text + end)
            self._out.flush()


def _start(args: Namespace, _config: Config | None, out: TextIO) -> int:
    folder = args.folder or Path(tempfile.mkdtemp(prefix="ddwd-try-"))
    before = {one: signal.signal(one, signal.default_int_handler) for one in _STOPPERS}
    try:
        sandbox = _prepared(folder, args.port_base)
        return _run(sandbox, _Screen(out, quiet=args.json))
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _prepared(folder: Path, port_base: int | None) -> Sandbox:
    """Prepare the folder. Raises DdwdError with the path that could not be created."""
    try:
        return Sandbox.prepare(folder, port_base)
    except OSError as error:
        raise DdwdError(f"{error.filename or folder}: {error.strerror}; choose another folder") from error


def _run(sandbox: Sandbox, screen: _Screen) -> int:
    try:
        sandbox.start()
        screen.line(f"starting in {sandbox.folder}")
        if wait_up(sandbox):
            screen.up(sandbox)
            while sandbox.dead() is None:
                screen.line(_status(sandbox))
                clock.sleep(_LOOK_SECONDS)
        name = sandbox.dead()
        sys.stderr.write(f"ddwd: {sandbox.exit_report(name)}\n" if name else "")
    except KeyboardInterrupt:
        screen.line("stopping")
        return 0
    else:
        return _DIED
    finally:
        for one in _STOPPERS:  # a second Ctrl-C kills what still runs
            signal.signal(one, lambda *_: sandbox.kill())
        sandbox.stop()
        screen.say(f"stopped; all files are kept in {sandbox.folder}")


def _status(sandbox: Sandbox) -> str:
    extractor, scp = sandbox.extractor_status(), sandbox.scp_status()
    parts = [
        f"studies published {extractor.totals.studies}",
        f"in flight {sum(extractor.counts.values())}",
        f"images on disk {extractor.totals.instances}",
        f"refused {scp.refused}",
    ]
    parts += [f"{name}: {reason}" for name, reason in silent(extractor.peers).items()]
    return ", ".join(parts)


COMMAND = Command(
    "try",
    "run the whole portal in one folder, until Ctrl-C",
    _start,
    (
        Argument(
            "folder",
            nargs="?",
            type=Path,
            metavar="DIR",
            help="the folder for all files (default: a new folder)",
        ),
        Argument("--port-base", type=_port_base, metavar="N", help="use ports N to N+4 (default: free ones)"),
    ),
    about="""It runs without systemd and PostgreSQL, on free ports, for a trial; all files stay in DIR. With
--json it prints one JSON object when the portal is up, and no other line.""",
    exits={
        0: "stopped on request",
        1: "one of its processes ended, or the folder cannot be used",
        69: "it did not start in time",
        78: "the settings in DIR cannot be used (a port in use, for example)",
    },
    needs_config=False,
    answer=(
        Key("gateway", _Node, "AE title and ports of ORTHANC1"),
        Key("storage", _Node, "AE title and ports of ORTHANC2"),
        Key("output_dir", str, "the folder of the published files"),
        Key("settings", str, "the file of the settings"),
        Key("credentials", str, "the file of the passwords"),
    ),
)
