"""What the harness needs from the host: its tools, root, one cache folder, the Debian mirror it already uses.

Read by every module of this package. Nothing here names a mirror: it is taken from the host's own apt sources.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REPO = Path(__file__).resolve().parents[2]
PACKAGE_OF_TOOL = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "unshare": "util-linux",
}
SUITES = ("bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable")


class MachineError(Exception):
    """The machine could not be built, booted or asked; the message says which and what to do."""


def say(line: str = "") -> None:
    """Print one line for the person at the terminal, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cache_folder() -> Path:
    """Return the one folder outside the clone that is written to; DDWD_CACHE overrides it."""
    named = os.environ.get("DDWD_CACHE")
    if named:
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "ddwd"


def become_root(arguments: Sequence[str]) -> None:
    """Return if we are root; otherwise run `python -m tests.machine ARGUMENTS` again through sudo."""
    if os.geteuid() == 0:
        return
    if shutil.which("sudo") is None:
        msg = "booting a machine needs root: run this as root, or install sudo"
        raise MachineError(msg)
    if subprocess.run(["sudo", "-v"], check=False).returncode:
        msg = "booting a machine needs root, and sudo refused it"
        raise MachineError(msg)
    _through_sudo(arguments)


def _through_sudo(arguments: Sequence[str]) -> NoReturn:
    kept = {"DDWD_CACHE": str(cache_folder()), "PATH": os.environ["PATH"]}
    kept |= {name: os.environ[name] for name in ("DDWD_MIRROR", "http_proxy") if name in os.environ}
    settings = [f"{name}={value}" for name, value in kept.items()]
    os.chdir(REPO)
    os.execvp("sudo", ["sudo", "env", *settings, sys.executable, "-m", "tests.machine", *arguments])  # noqa: S606


def require_tools() -> None:
    """Install the host packages that are missing (root only).

    Raises MachineError where apt cannot bring them.
    """
    missing = sorted({package for tool, package in PACKAGE_OF_TOOL.items() if shutil.which(tool) is None})
    if not missing:
        return
    say(f"installing on this host: {' '.join(missing)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    for command in (["apt-get", "update", "-q"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            msg = f"{' '.join(command)} failed; a machine cannot be booted here:\n{done.stderr.strip()}"
            raise MachineError(msg)


def mirror() -> str:
    """Return the Debian mirror of this host's apt sources; DDWD_MIRROR overrides it.

    Raises MachineError where the host's apt knows no Debian mirror.
    """
    named = os.environ.get("DDWD_MIRROR")
    if named:
        return named
    for uri, suites in _apt_sources(Path("/etc/apt")):
        if any(suite in SUITES for suite in suites):
            return uri
    msg = "no Debian mirror in /etc/apt/sources.list(.d): set DDWD_MIRROR to the one to use"
    raise MachineError(msg)


def _apt_sources(apt: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (URI, suites) of each enabled binary entry, one-line and deb822 files alike."""
    for path in (apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))):
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            words = [word for word in line.split() if not word.startswith(("[", "signed-by", "arch="))]
            if words[:1] == ["deb"] and len(words) > 2:
                yield words[1], [words[2]]
    for path in sorted((apt / "sources.list.d").glob("*.sources")):
        for stanza in path.read_text(encoding="utf-8").split("\n\n"):
            yield from _deb822(stanza)


def _deb822(stanza: str) -> Iterator[tuple[str, list[str]]]:
    lines = [line for line in stanza.splitlines() if ":" in line and not line.startswith(("#", " "))]
    fields = {key.strip().lower(): value.split() for key, _, value in (line.partition(":") for line in lines)}
    enabled = fields.get("enabled", ["yes"]) != ["no"]
    if enabled and "deb" in fields.get("types", []) and fields.get("uris"):
        yield fields["uris"][0], fields.get("suites", [])
