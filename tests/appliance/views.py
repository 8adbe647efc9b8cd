"""What the views say, second by second, run in the machine as root: `views.py SECONDS` prints a line of JSON for each look.

It reads what every view reads: the report of ddwd status with its problems, the hops of ddwd-top, ddwd-monitor's metrics and its alerts;
and each fifteen seconds what ddwd doctor finds. One process, since a verb each second would be traffic of its own.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

sys.path[:0] = ["/usr/lib/ddwd", "/usr/lib/ddwd/vendor"]

from ddwd.cli.doctor import context_of  # noqa: E402 - the path comes first
from ddwd.config.loader import load  # noqa: E402
from ddwd.config.paths import Paths  # noqa: E402
from ddwd.core.problem import with_all  # noqa: E402
from ddwd.monitoring.alerts import FORMAT  # noqa: E402
from ddwd.status.dashboard import DashboardReader  # noqa: E402
from ddwd.status.doctor import examine  # noqa: E402
from ddwd.status.report import real_sources  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ddwd.core.problem import Problem

_DOCTOR_SECONDS = 15.0


def main(seconds: float) -> None:
    """Look each second; `views` has what each view shows as (code, severity, subject or hop, cause)."""
    config = load()
    dashboard = DashboardReader(config, real_sources())
    end, doctor_at = time.monotonic() + seconds, 0.0
    while time.monotonic() < end:
        began = time.monotonic()
        board = dashboard.read()
        alerts = FORMAT.read_or_none(Paths(config).alerts)
        views = {
            "status": _rows(with_all(board.report.problems)),
            "top": _rows(hop.problem for hop in board.hops if hop.problem is not None),
            "lights": [
                (hop.title, hop.light.value, hop.reason) for hop in board.hops if hop.light.value != "ok"
            ],
            "alerts": [key for key, one in alerts.standing.items() if one.told] if alerts else [],
            "metrics": _metrics(config.metrics.textfile),
        }
        if began >= doctor_at:
            doctor_at = began + _DOCTOR_SECONDS
            views["doctor"] = _rows(with_all(examine(context_of(config)).problems))
        print(json.dumps({"at": time.time(), "took": time.monotonic() - began, "views": views}), flush=True)  # noqa: T201
        time.sleep(max(0.0, began + 1.0 - time.monotonic()))


def _rows(problems: Iterable[Problem]) -> list[tuple[str, str, str, str]]:
    return [(one.code.value, one.severity.name, one.subject, one.cause) for one in problems]


def _metrics(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [line for line in lines if line.startswith("ddwd_problems{") and not line.endswith(" 0")]


if __name__ == "__main__":
    main(float(sys.argv[1]))
