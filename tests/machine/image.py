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
from pathlib import Path
from typing import TYPE_CHECKING

from tests.machine.host import MachineError, cache_folder, mirror, require_tools, say

if TYPE_CHECKING:
    from collections.abc import Iterator

SUITE = "trixie"
SYSTEM = (
    "systemd", "systemd-sysv", "dbus", "udev", "libpam-systemd", "python3", "ca-certificates", "apt",
    "iproute2", "procps",
)  # fmt: skip
PORTAL = (
    "orthanc", "orthanc-dicomweb", "orthanc-postgresql", "orthanc-python", "postgresql", "python3-yaml", "python3-requests",
    "python3-watchdog", "python3-sdnotify", "python3-systemd", "python3-prometheus-client", "openssl", "stunnel4",
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


def recipe() -> dict[str, object]:
    """Return all that decides what is in the image; its hash names the image."""
    return {"suite": SUITE, "packages": [*SYSTEM, *PORTAL, *TOOLS], "hooks": list(HOOKS)}


def image_path() -> Path:
    """Return where the image of this recipe lies, built or not."""
    digest = hashlib.sha256(json.dumps(recipe(), sort_keys=True).encode()).hexdigest()[:12]
    return cache_folder() / "images" / f"{SUITE}-{digest}"


def ensure_image() -> Path:
    """Return the image's folder, building it first where this recipe has none yet (root; one to three minutes).

    Raises MachineError where it cannot be built.
    """
    require_tools()
    image = image_path()
    with _locked(image.parent):
        if not image.exists():
            _forget_older(image.parent)
            _build(image)
    return image


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_older(folder: Path) -> None:
    """Remove images of earlier recipes and torn builds, except one that a running machine still uses."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    for old in folder.iterdir():
        if old.is_dir() and f"lowerdir={old}," not in mounts:
            shutil.rmtree(old)


def _build(image: Path) -> None:
    say(f"building the Debian 13 image (once): {image}")
    began = time.monotonic()
    growing = image.with_name(image.name + ".part")
    include = ",".join([*SYSTEM, *PORTAL, *TOOLS])
    hooks = [f"--customize-hook={hook}" for hook in HOOKS]
    command = [
        "mmdebstrap",
        "--variant=minbase",
        f"--include={include}",
        *hooks,
        SUITE,
        str(growing),
        mirror(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        shutil.rmtree(growing, ignore_errors=True)
        msg = f"mmdebstrap could not build {SUITE}:\n{done.stderr[-3000:]}"
        raise MachineError(msg)
    growing.rename(image)
    say(f"image ready after {time.monotonic() - began:.0f} s")
