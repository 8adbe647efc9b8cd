"""What the harness needs from the host: its tools, root, one cache folder, the Debian mirror it already uses.

Read by every module of this package. Nothing here names a mirror: it is taken from the host's own apt sources.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REPO = Path(__file__).resolve().parents[2]
ROOT_CACHE = Path("/var/cache/ddwd")
TOOLS = ("systemd-nspawn", "mmdebstrap", "ip", "unshare", "lowntfs-3g")
SUITES = ("bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable")


class MachineError(Exception):
    """The machine could not be built, booted or asked; the message says which and what to do."""


def say(line: str = "") -> None:
    """Print one line for the person at the terminal, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cache_folder() -> Path:
    """Return the one folder outside the clone that this process writes to; DDWD_CACHE overrides it.

    Root reached through sudo writes no file in the user's cache: its images and machines are in a folder of root's own.
    """
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "0") != "0":
        return ROOT_CACHE
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
    os.chdir(REPO)
    os.environ["DDWD_CACHE"] = str(cache_folder())
    os.execv("packaging/as-root", ["as-root", sys.executable, "-m", "tests.machine", *arguments])  # noqa: S606


def give_back(clone: Path = REPO) -> None:
    """Give the user who called sudo what root wrote in the user's clone (dist/, build/); links are not followed."""
    owner = clone.lstat()
    if os.geteuid() != 0 or owner.st_uid == 0 or str(owner.st_uid) != os.environ.get("SUDO_UID"):
        return
    for folder, names, files in os.walk(clone):
        for path in (Path(folder) / name for name in (*names, *files)):
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_uid == 0:
                    os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def require_tools() -> None:
    """Install the host packages that are missing (root only).

    Raises MachineError where apt cannot bring them.
    """
    done = subprocess.run(
        [REPO / "packaging" / "host", *TOOLS], stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        msg = f"a machine cannot be booted here:\n{done.stderr.strip()}"
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
