"""How many associations ORTHANC2 has: Orthanc does not say, the kernel's table of connections does. Every user may read it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.config.paths import Paths, orthanc_share
from ddwd.provisioning.orthanc_config import read_addition

if TYPE_CHECKING:
    from ddwd.config.schema import Config
    from ddwd.config.schema_network import NodeName

_TABLE = Path("/proc/self/net/tcp")
_ESTABLISHED = "01"
_THREADS = "DicomThreadsCount"


def established(port: int, table: Path = _TABLE) -> int:
    """Return the established connections to a TCP port of this machine, by IPv4, as Orthanc listens; 0 without that table."""
    with suppress(OSError):
        rows = map(str.split, table.read_text(encoding="ascii").splitlines()[1:])
        return sum(row[1].endswith(f":{port:04X}") and row[3] == _ESTABLISHED for row in rows)
    return 0


def dicom_threads(config: Config, node: NodeName) -> int:
    """Return the associations that this Orthanc serves at once, with the operator's additions as far as this user may read them."""
    tree = json.loads((orthanc_share() / f"{node}.json").read_text(encoding="utf-8"))
    for path in sorted(Paths(config).additions(node).glob("*.json")):
        tree |= read_addition(path, [])
    return int(tree[_THREADS])
