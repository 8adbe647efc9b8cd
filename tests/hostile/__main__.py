"""`python -m tests.hostile HOST PORT AET ATTACK PATIENCE`: one attack from where this runs; prints its outcomes as JSON."""

from __future__ import annotations

import json
import resource
import sys

from tests.hostile.attacks import ATTACKS
from tests.hostile.wire import Target

if __name__ == "__main__":
    host, port, called, name, patience = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
    print(json.dumps(ATTACKS[name](Target(host, int(port), called, float(patience)))))  # noqa: T201
