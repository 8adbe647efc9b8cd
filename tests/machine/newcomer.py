"""A bare Debian host, thrown away afterwards, in which make targets run from a fresh clone with an empty cache.

Called by `python -m tests.machine newcomer` (packaging/newcomer). The host is a copy of a minbase image with make, git and
sudo, in mount, process and host name namespaces of its own; /sys, /dev and the network are this host's. Standard library
only, root; nothing is left when it ends: a folder whose owner was killed is removed by the next run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tests.machine.host import REPO, cache_folder, mirror, say
from tests.machine.image import Recipe, ensure_image, locked
from tests.machine.machine import remove_cgroups

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import FrameType
    from typing import TextIO

SUITES = ("bookworm", "trixie")
USER = "newcomer"
CLONE = "ddwd"
PATHS = {
    "root": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    USER: "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games",  # Debian's own: no sbin
}
CARRIED = re.compile(
    r"PIP_(?!CACHE_DIR$)\w+|\w+_proxy|(?:SSL|PIP|REQUESTS|CURL|GIT|NIX)_\w*(?:CERT|CA_?INFO|CA_BUNDLE)\w*",
    re.IGNORECASE,
)
"""Environment variables that say how this host reaches the Debian mirror and the Python index."""
ACQUIRE = re.compile(r"Acquire::(?:https?|Check-|Max-|Retries|Force|AllowInsecure|Queue)\S* ")
"""The settings of apt that do the same; what it downloads and what it runs afterwards stays the suite's own."""
ENTER = """
set -e
path=$PATH
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount --bind "$0" "$0"
cd "$0"
mount -t proc proc proc
for shared in sys dev; do mount --rbind "/$shared" "$shared"; done
while [ "$1" != -- ]; do mount --bind "$1" ".$1"; mount -o remount,bind,ro ".$1"; shift; done
shift
hostname newcomer
pivot_root . mnt
umount -l /mnt
cd "$1"
shift
PATH=$path "$@" </dev/null
"""
"""Run by sh as PID 1: $0 the tree, folders to show read-only, --, the working folder, the command."""


def try_out(suite: str, user: str, targets: Sequence[str]) -> int:
    """Run make targets in a fresh bare host as root or as USER; return 0 if all passed and no stray file is left."""
    name = "root" if user == "root" else USER
    with Host(suite) as host:
        home = host.prepare(name)
        for target in targets:
            began = time.monotonic()
            say(f"--- {suite}, {user}: make {target}")
            status = host.run(name, [*_as(name), "make", target], home / CLONE)
            say(f"--- {suite}, {user}: make {target}: status {status} after {time.monotonic() - began:.0f} s")
            if status:
                return status
        stray = host.stray(name, home)
        for line in stray:
            say(line)
        say(f"--- {suite}, {user}: {f'{len(stray)} STRAY FILES' if stray else 'no stray files'}")
    return 1 if stray else 0


def _as(name: str) -> list[str]:
    return [] if name == "root" else ["setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups", "--"]


class Host:
    """One bare host on disk; a context manager that removes it, its processes and the cgroups of its machines."""

    def __init__(self, suite: str) -> None:
        self._image = ensure_image(_recipe(suite))
        self._folder = cache_folder() / "newcomers" / secrets.token_hex(3)
        self._root = self._folder / "root"
        self._shown: list[str] = []
        self._known: set[str] = set()
        self._owned: TextIO | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Host:
        """Copy the image."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _leave)
        with locked(self._folder.parent):
            _sweep(self._folder.parent)
            self._folder.mkdir()
            self._owned = (self._folder / "lock").open("w")
            fcntl.flock(self._owned, fcntl.LOCK_EX)
        try:
            subprocess.run(["cp", "-a", "--reflink=auto", str(self._image), str(self._root)], check=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        """Kill what still runs, remove the folder."""
        self._kill()
        _remove(self._folder)
        if self._owned is not None:
            self._owned.close()

    def prepare(self, name: str) -> Path:
        """Make the user, carry this host's settings in, clone HEAD; return the home inside."""
        if name != "root":
            self._chroot("useradd", "--create-home", "--shell=/bin/bash", name)
            self._write(f"/etc/sudoers.d/{name}", f"{name} ALL=(ALL:ALL) NOPASSWD: ALL\n", mode=0o440)
        home = Path("/root" if name == "root" else f"/home/{name}")
        self._carry({Path("/root"), home})
        clone = f"{self._root}{home}/{CLONE}"
        git = ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--no-hardlinks"]
        subprocess.run([*git, str(REPO), clone], check=True)
        self._known = {path.name for path in Path(f"{self._root}{home}").iterdir()}
        if name != "root":
            self._chroot("chown", "-R", f"{name}:{name}", str(home))
        return home

    def run(self, name: str, command: Sequence[str], folder: Path) -> int:
        """Run COMMAND inside and return its status; when this process dies, all inside is killed by the kernel."""
        home = "/root" if name == "root" else f"/home/{name}"
        own = {"HOME": home, "USER": name, "LOGNAME": name, "SHELL": "/bin/bash", "PATH": PATHS[name]}
        own["TERM"] = os.environ.get("TERM", "dumb")
        enter = ["setpriv", "--pdeathsig=KILL", "--"]
        enter += ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--"]
        enter += ["sh", "-c", ENTER, str(self._root), *self._shown, "--", str(folder), *command]
        self._process = subprocess.Popen(enter, env=_carried_environment() | own)
        return self._process.wait()

    def stray(self, name: str, home: Path) -> list[str]:
        """Return what was left outside the clone and the cache folder, and what root left in the user's home."""
        inside = Path(f"{self._root}{home}")
        known = {
            *self._known,
            ".cache",
            *((".ssh",) if name == "root" else ()),
        }  # systemd's package makes /root/.ssh
        found = [path for path in inside.iterdir() if path.name not in known]
        found += [path for path in inside.glob(".cache/*") if path.name != "ddwd"]
        found += [
            path
            for folder in ("tmp", "var/tmp")
            for path in (self._root / folder).iterdir()
            if not path.name.startswith("pytest-of-")  # pytest keeps the folders of its last three runs there
        ]
        lines = [f"outside the clone and the cache: {path.relative_to(self._root)}" for path in found]
        if name == "root":
            return lines
        of_root = [path for path in (inside, *inside.rglob("*")) if path.lstat().st_uid == 0]
        return lines + [f"owned by root: {path.relative_to(self._root)}" for path in of_root]

    # --- what it has of this host ------------------------------------------------------------------------------------

    def _carry(self, homes: Iterable[Path]) -> None:
        """Carry in how this host reaches the Debian mirror and the Python index, nothing else of it."""
        self._write("/etc/resolv.conf", _text(Path("/etc/resolv.conf")))
        self._write("/etc/hosts", _text(Path("/etc/hosts")) + "127.0.1.1 newcomer\n")
        acquire = _acquire()
        self._write("/etc/apt/apt.conf.d/99host", acquire)
        for path in ("/etc/apt/auth.conf", "/etc/apt/auth.conf.d", "/etc/apt/trusted.gpg.d", "/etc/apt/keyrings",
                     "/etc/ssl/certs/ca-certificates.crt", "/usr/local/share/ca-certificates",
                     "/etc/pip.conf", "/etc/xdg/pip"):  # fmt: skip
            self._copy(Path(path), path)
        own = _own_home()
        for home in homes:
            for name in (".config/pip", ".pip"):
                self._copy(own / name, f"{home}/{name}")
        settings = [_text(path) for path in _pip_files(own)]
        for named in local_paths([acquire, *settings, *_carried_environment().values()]):
            self._show(named)

    def _show(self, path: Path) -> None:
        """Copy a file that a setting names; show a folder read-only, from the first part of its path that is missing here."""
        missing = [one for one in (path, *path.parents) if not (self._root / str(one).lstrip("/")).exists()]
        if not missing:
            return
        if path.is_file():
            self._copy(path, str(path))
            return
        (self._root / str(missing[-1]).lstrip("/")).mkdir()
        self._shown.append(str(missing[-1]))

    def _copy(self, source: Path, inside: str) -> None:
        target = self._root / inside.lstrip("/")
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-aLT", str(source), str(target)], check=True)

    def _write(self, inside: str, text: str, mode: int = 0o644) -> None:
        path = self._root / inside.lstrip("/")
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)

    def _chroot(self, *command: str) -> None:
        subprocess.run(
            ["chroot", str(self._root), *command],
            check=True,
            env={"PATH": PATHS["root"]},
            stdin=subprocess.DEVNULL,
        )

    def _kill(self) -> None:
        """Kill PID 1 inside: the kernel kills the rest with it, and unshare ends after the last one."""
        if self._process is None or self._process.poll() is not None:
            return
        parent = self._process.pid
        children = _text(Path(f"/proc/{parent}/task/{parent}/children")).split()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if not children:
            self._process.kill()
        self._process.wait()


def _recipe(suite: str) -> Recipe:
    https = ("ca-certificates",) if mirror().startswith("https:") else ()
    return Recipe("hosts", suite, ("make", "git", "sudo", *https))


def _sweep(folder: Path) -> None:
    """Remove what hosts left whose owner was killed."""
    for lock in folder.glob("*/"):
        with contextlib.suppress(OSError), (lock / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(lock)


def _remove(folder: Path) -> None:
    """Remove a host whose processes are gone, and the cgroups of the machines that it had booted."""
    for cache in ("root/.cache/ddwd", "var/cache/ddwd"):
        for lock in (folder / "root" / cache / "machines").glob("*.lock"):
            remove_cgroups(lock.stem)
    shutil.rmtree(folder, ignore_errors=True)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _own_home() -> Path:
    """The home of who called, through sudo or not."""
    return Path(pwd.getpwuid(int(os.environ.get("SUDO_UID", os.getuid()))).pw_dir)


def _pip_files(home: Path) -> Iterator[Path]:
    yield Path("/etc/pip.conf")
    yield from (Path("/etc/xdg/pip/pip.conf"), home / ".config/pip/pip.conf", home / ".pip/pip.conf")


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8")
    return ""


def _acquire() -> str:
    done = subprocess.run(["apt-config", "dump", "--no-empty"], capture_output=True, text=True, check=True)
    return "".join(line for line in done.stdout.splitlines(keepends=True) if ACQUIRE.match(line))


def _carried_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if CARRIED.fullmatch(name)}


def local_paths(texts: Iterable[str]) -> list[Path]:
    """Return the files and folders of this host that settings name, by path or file: URL."""
    words = [
        word for text in texts for word in re.findall(r"(?:(?<=file://)|(?<![\w/:.]))/[^\s\"';,:]+", text)
    ]
    return [path for path in dict.fromkeys(map(Path, words)) if path.exists()]
