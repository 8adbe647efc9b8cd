"""The package of an earlier release, built from its own sources (previous/, kept by packaging/previous) by its own packaging/build-deb."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.machine.host import cache_folder

_SOURCES = Path(__file__).with_name("previous")


def build(version: str, folder: Path) -> Path:
    """Build the package of that release in an empty folder; return its path."""
    subprocess.run(["tar", "-xf", str(_SOURCES / f"ddwd-{version}.tar.xz"), "-C", str(folder)], check=True)
    subprocess.run(
        ["env", f"DDWD_CACHE={cache_folder()}", "packaging/build-deb"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "dist" / f"ddwd_{version}_all.deb"
