"""A machine with the package installed, shut down in order and kept in the cache as a layer: a new machine over it is active in seconds.

What belongs to one machine alone is not in the layer: machine ID, passwords, journal. Used by tests/appliance and tests/faults,
but not where the installation itself is tested.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

from tests.machine.host import cache_folder
from tests.machine.image import ensure_image, locked
from tests.machine.machine import Machine

_OWN = ("etc/ddwd/credentials.json", "var/log/journal")
_UNUSED_SECONDS = 3600.0
"""A layer that no machine was laid over for so long belongs to an older package."""


def ensure_installed(deb: Path) -> Path:
    """Return the layer with that package, made first where there is none yet (root; half a minute).

    Raises MachineError where no machine can be booted.
    """
    folder = cache_folder() / "installed"
    with locked(folder):
        layer = folder / hashlib.sha256(ensure_image().name.encode() + deb.read_bytes()).hexdigest()[:12]
        if not layer.exists():
            _forget_unused(folder)
            _make(deb, layer)
        os.utime(layer)
    return layer


def _make(deb: Path, layer: Path) -> None:
    with Machine() as machine:
        machine.install(deb)
        machine.wait_for(
            lambda: machine.run(["ddwd", "status"], check=False).returncode == 0,
            limit=120,
            what="the portal is not well",
        )
        machine.shut_down()
        upper = machine.unmount()
        for name in _OWN:
            path = upper / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (upper / "var/log/journal").mkdir()
        upper.rename(layer)


def _forget_unused(folder: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    for old in folder.iterdir():
        if old.is_dir() and str(old) not in mounts and time.time() - old.stat().st_mtime > _UNUSED_SECONDS:
            shutil.rmtree(old)
