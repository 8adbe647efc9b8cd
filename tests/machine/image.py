"""The Debian 13 image all machines share: built once by mmdebstrap, kept in the cache under a hash of its recipe.

Written only here, under a temporary name and then renamed, with a lock against a second builder; every machine
mounts it read-only as the lower layer of an overlay.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.machine.host import ROOT_CACHE, MachineError, cache_folder, mirror, require_tools, say

if TYPE_CHECKING:
    from collections.abc import Iterator

SUITE = "trixie"
SYSTEM = (
    "systemd", "systemd-sysv", "dbus", "udev", "libpam-systemd", "python3", "ca-certificates", "apt",
    "iproute2", "procps",
)  # fmt: skip
PORTAL = (
    "orthanc", "orthanc-dicomweb", "orthanc-postgresql", "orthanc-python", "postgresql", "python3-yaml", "python3-requests",
    "python3-watchdog", "python3-sdnotify", "python3-systemd", "python3-prometheus-client", "python3-cryptography", "openssl", "stunnel4",
    "python3-psycopg",
)  # fmt: skip
TOOLS = (
    "prometheus",
    "rsyslog",
    "rsyslog-openssl",
    "dcmtk",
    "lintian",
    "tmux",
    "libfaketime",
    "faketime",
    "nftables",
    "curl",
)
NEEDLESS = (
    "rsyslog.service", "prometheus.service", "prometheus-node-exporter.service",
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "console-getty.service", "getty@tty1.service",
)  # fmt: skip
HOOKS = (
    # what only a real machine has, and what would touch the network or the disk in the middle of a test
    'chroot "$1" systemctl mask ' + " ".join(NEEDLESS),
    # a journal that outlives a reboot
    'mkdir -p "$1/var/log/journal"',
    # each machine gets its own identity
    ': > "$1/etc/machine-id"',
    "printf 'ddwd\\n' > \"$1/etc/hostname\"",
    "printf '127.0.0.1 localhost ddwd\\n::1 localhost\\n' > \"$1/etc/hosts\"",
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what is in a tree made by mmdebstrap; its hash names the tree in `folder` of the cache."""

    folder: str
    suite: str
    packages: tuple[str, ...]
    hooks: tuple[str, ...] = ()

    def path(self) -> Path:
        """Return where the tree of this recipe is, built or not."""
        written = {"suite": self.suite, "packages": self.packages, "hooks": self.hooks}
        digest = hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()[:12]
        return cache_folder() / self.folder / f"{self.suite}-{digest}"


APPLIANCE = Recipe("images", SUITE, (*SYSTEM, *PORTAL, *TOOLS), HOOKS)


def ensure_image(recipe: Recipe = APPLIANCE) -> Path:
    """Return the image's folder, building it first where this recipe has none yet (root; one to three minutes).

    Raises MachineError where it cannot be built.
    """
    require_tools()
    image = recipe.path()
    with locked(image.parent):
        if not image.exists():
            _forget_older(image.parent, recipe.suite)
            _build(image, recipe)
    return image


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder where it is missing, and wait until no other process holds its lock."""
    if not folder.exists() and ROOT_CACHE in folder.parents:
        ROOT_CACHE.mkdir(mode=0o700, exist_ok=True)  # its programs may be old and setuid
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_older(folder: Path, suite: str) -> None:
    """Remove images of earlier recipes and torn builds, except one that a running machine still uses."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    for old in folder.glob(f"{suite}-*"):
        if f"lowerdir={old}," not in mounts:
            shutil.rmtree(old)


def _build(image: Path, recipe: Recipe) -> None:
    say(f"building the {recipe.suite} image (once): {image}")
    began = time.monotonic()
    growing = image.with_name(image.name + ".part")
    command = [
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join(recipe.packages)}",
        *(f"--customize-hook={hook}" for hook in recipe.hooks),
        recipe.suite,
        str(growing),
        mirror(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        shutil.rmtree(growing, ignore_errors=True)
        msg = f"mmdebstrap could not build {recipe.suite}:\n{done.stderr[-3000:]}"
        raise MachineError(msg)
    growing.rename(image)
    say(f"image ready after {time.monotonic() - began:.0f} s")
