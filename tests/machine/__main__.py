"""`python -m tests.machine build|boot|shell|run|send|stop|demo|newcomer`: the throw-away machine from a terminal.

Called by the Makefile (appliance, shell, stop, demo) and packaging/newcomer. Standard library only, but for demo, which needs the venv.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.machine.host import REPO, MachineError, become_root, say
from tests.machine.image import ensure_image
from tests.machine.machine import Machine, running
from tests.machine.newcomer import SUITES as BARE_SUITES
from tests.machine.newcomer import try_out

if TYPE_CHECKING:
    from collections.abc import Sequence


def newest_deb() -> Path:
    """Return the .deb that `make deb` built last. Raises MachineError where there is none."""
    found = sorted((REPO / "dist").glob("ddwd_*_all.deb"), key=lambda path: path.stat().st_mtime)
    if not found:
        msg = "no dist/ddwd_*_all.deb: run `make deb` first"
        raise MachineError(msg)
    return found[-1]


def build(_options: argparse.Namespace) -> int:
    """Build the image where the cache has none."""
    say(str(ensure_image()))
    return 0


def boot(options: argparse.Namespace) -> int:
    """Boot a machine with the .deb installed, leave it running, say how to reach it."""
    deb = None if options.plain else (options.deb or newest_deb())
    with Machine(kept=True) as machine:
        say(f"machine {machine.ident} is up")
        if deb is not None:
            say(f"installing {deb.name}")
            machine.install(deb)
        _how_to_reach(machine)
    return 0


def _how_to_reach(machine: Machine) -> None:
    say(
        f"""
    a root shell in it     make shell
    one command in it      {sys.executable} -m tests.machine run ddwd status
    send files to it       {sys.executable} -m tests.machine send PATH...
    with any other tool    nsenter --net={machine.network.modality} TOOL ... ORTHANC1 at 10.99.0.1 port 4242
    what it received       {machine.path("/var/lib/ddwd/received_dicom")}
    end it                 make stop
"""
    )


def _only() -> Machine:
    idents = running()
    if not idents:
        msg = "no machine runs: start one with `make appliance`"
        raise MachineError(msg)
    return Machine.attach(idents[-1])


def shell(_options: argparse.Namespace) -> int:
    """Enter the machine."""
    command = _only().argv(["bash", "-l"])
    os.execvp(command[0], command)  # noqa: S606


def run(options: argparse.Namespace) -> int:
    """Run one command in the machine and end with its status."""
    command = _only().argv(options.command)
    os.execvp(command[0], command)  # noqa: S606


def send(options: argparse.Namespace) -> int:
    """Send files and folders from the modality."""
    modality = _only().modality
    done = modality.run(modality.dcmsend_argv(*options.paths), check=False)
    say(done.stdout)
    return done.returncode


def stop(options: argparse.Namespace) -> int:
    """End the machine that was left running; where there are several, the ones named."""
    idents = options.machines or running()
    if len(idents) > 1 and not options.machines:
        msg = f"several machines run, and some may be another's: name those to end: {' '.join(idents)}"
        raise MachineError(msg)
    for ident in idents:
        Machine.attach(ident).stop()
        say(f"machine {ident} is gone")
    return 0


def demo(options: argparse.Namespace) -> int:
    """Send real studies through a fresh machine and compare what comes out."""
    from tests.machine.demo import main as demonstrate  # noqa: PLC0415 - it needs the venv, the rest does not

    return demonstrate(options.deb)


def newcomer(options: argparse.Namespace) -> int:
    """Run make targets in a throw-away bare Debian host, from a clone of HEAD with an empty cache."""
    return try_out(options.suite, options.user, options.targets)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.machine", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in (build, boot, shell, run, send, stop, demo, newcomer):
        sub = verbs.add_parser(verb.__name__, help=(verb.__doc__ or "").rstrip("."))
        sub.set_defaults(verb=verb)
        if verb in (boot, demo):
            sub.add_argument("--deb", type=Path, help="the package to install (default: the newest in dist/)")
        if verb is boot:
            sub.add_argument("--plain", action="store_true", help="Debian only, without the portal")
        if verb is run:
            sub.add_argument("command", nargs=argparse.REMAINDER)
        if verb is stop:
            sub.add_argument("machines", nargs="*", metavar="ID")
        if verb is newcomer:
            sub.add_argument("suite", choices=BARE_SUITES)
            sub.add_argument("user", choices=("root", "user"), help="user: an ordinary one with sudo")
            sub.add_argument("targets", nargs="+", metavar="TARGET")
        if verb is send:
            sub.add_argument("paths", nargs="+", type=Path)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one verb; MachineError becomes one line on standard error and status 1."""
    options = _parser().parse_args(arguments)
    try:
        if options.verb is not demo:  # it finds its own way without root
            become_root(arguments)
        status: int = options.verb(options)
    except MachineError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
