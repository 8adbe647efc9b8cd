"""What the portal costs at a few and at very many finished studies: nothing it does may grow with its history.

`fill` lays finished studies into a booted machine as they would be after years: rows in the databases of both Orthancs, published
files, custody records, the ledger. All of it is copied from one study that was delivered for real, under other identifiers.
`measure` times what an operator waits for. Called by the bench, and by hand: `python -m tests.bench.growth 100 10000`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.appliance.conftest import Portal
from tests.bench.inside import memory, standing
from tests.bench.rows import Row
from tests.machine import Machine
from tests.machine.__main__ import newest_deb
from tests.machine.host import say
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.rows import Scale

_LAYER = Path(__file__).with_name("finished.py")
_INSIDE = "/srv/finished.py"
_IDS = "/srv/finished.ids"
_TREE = {"PYTHONPATH": "/usr/lib/ddwd:/usr/lib/ddwd/vendor"}
_SEED = 4711
_NODES = ("gateway", "storage")
_COPY = """
\\set ON_ERROR_STOP on
SET session_replication_role = replica;  -- no triggers: their counters are set once, at the end
CREATE TEMP TABLE laid (number int, level int, public text);
\\copy laid FROM '{ids}'
CREATE TEMP TABLE template AS
  WITH RECURSIVE up AS (
    SELECT * FROM resources WHERE publicid = '{instance}'
    UNION ALL SELECT r.* FROM resources r JOIN up ON r.internalid = up.parentid)
  SELECT internalid, resourcetype FROM up;
CREATE TEMP TABLE made AS
  SELECT l.number, l.level, l.public, t.internalid AS model,
    (SELECT max(internalid) FROM resources) + 4 * (l.number - {first}) + l.level + 1 AS id
  FROM laid l JOIN template t ON t.resourcetype = l.level;
INSERT INTO resources SELECT id, level, public, CASE WHEN level > 0 THEN id - 1 END FROM made ORDER BY id;
CREATE FUNCTION pg_temp.named(g int, e int, number int, value text) RETURNS text LANGUAGE sql AS $$
  SELECT CASE g * 65536 + e
    WHEN x'00100020'::int THEN 'GROWTH' || number
    WHEN x'00080050'::int THEN 'GROWTH' || number
    WHEN x'0020000d'::int THEN '2.25.98.' || number
    WHEN x'0020000e'::int THEN '2.25.98.' || number || '.1'
    WHEN x'00080018'::int THEN '2.25.98.' || number || '.1.1'
    ELSE value END $$;
INSERT INTO maindicomtags
  SELECT m.id, o.taggroup, o.tagelement, pg_temp.named(o.taggroup, o.tagelement, number, value)
  FROM made m JOIN maindicomtags o ON o.id = m.model;
INSERT INTO dicomidentifiers
  SELECT m.id, o.taggroup, o.tagelement, pg_temp.named(o.taggroup, o.tagelement, number, value)
  FROM made m JOIN dicomidentifiers o ON o.id = m.model;
INSERT INTO metadata SELECT m.id, o.type, o.value, o.revision FROM made m JOIN metadata o ON o.id = m.model;
INSERT INTO attachedfiles
  SELECT m.id, o.filetype, gen_random_uuid(), o.compressedsize, o.uncompressedsize, o.compressiontype,
    o.uncompressedhash, o.compressedhash, o.revision
  FROM made m JOIN attachedfiles o ON o.id = m.model;
INSERT INTO patientrecyclingorder (patientid) SELECT id FROM made WHERE level = 0 ORDER BY id;
INSERT INTO changes (changetype, internalid, resourcetype, date)
  SELECT o.changetype, m.id, o.resourcetype, o.date
  FROM made m JOIN changes o ON o.internalid = m.model ORDER BY m.number, o.seq;
SELECT setval('resources_internalid_seq', (SELECT max(internalid) FROM resources));
UPDATE globalintegers SET value = CASE key
    WHEN 0 THEN (SELECT sum(compressedsize) FROM attachedfiles)
    WHEN 1 THEN (SELECT sum(uncompressedsize) FROM attachedfiles)
    WHEN 6 THEN (SELECT max(seq) FROM changes)
    ELSE (SELECT count(*) FROM resources WHERE resourcetype = key - 2) END;
VACUUM ANALYZE;
"""


def fill(portal: Portal, finished: int) -> None:
    """Lay finished studies until there are `finished` of them; the portal is stopped meanwhile and started again."""
    machine = portal.machine
    template = _template(portal)
    have = int(machine.rest("storage", "/statistics")["CountStudies"])
    if have >= finished:
        return
    first, last = have + 1, finished
    machine.run(["systemctl", "stop", "ddwd"])
    machine.copy_in(_LAYER, _INSIDE)
    said = _lay(portal, "lay", template["study"], str(first), str(last))
    machine.path(_IDS).write_text(said, encoding="ascii")
    script = _COPY.format(ids=_IDS, instance=template["instance"], first=first)
    newest = []
    for node in _NODES:
        _sql(portal, node, script)
        newest.append(_sql(portal, node, "SELECT max(seq) FROM changes"))
    _lay(portal, "caught-up", *newest)
    machine.run(["systemctl", "start", "ddwd"])
    portal.wait_active()


def _template(portal: Portal) -> dict[str, str]:
    """Orthanc IDs of the one study that all others are made of; it is sent where it is not there."""
    with tempfile.TemporaryDirectory() as folder:
        study = made_up_ct(Path(folder), 1, seed=_SEED, size=16)
        if not portal.machine.rest("storage", "/tools/find", method="POST", body=_query(study.uid)):
            portal.deliver(study)
    (found,) = portal.machine.rest("storage", "/tools/find", method="POST", body=_query(study.uid))
    (instance,) = portal.machine.rest("storage", f"/studies/{found['ID']}/instances")
    return {"study": found["ID"], "instance": instance["ID"]}


def _query(uid: str) -> dict[str, Any]:
    return {"Level": "Study", "Query": {"StudyInstanceUID": uid}, "Expand": True}


def _lay(portal: Portal, *arguments: str) -> str:
    command = ["python3", _INSIDE, *arguments]
    return portal.machine.run(command, user="ddwd", timeout=600, env=_TREE).stdout


def _sql(portal: Portal, node: str, script: str) -> str:
    command = ["psql", "-q", "-A", "-t", "-d", f"ddwd_{node}"]
    return portal.machine.run(command, user="postgres", stdin=script, timeout=600).stdout.strip()


# --- measuring --------------------------------------------------------------------------------------------------------

_EXTRACTOR = "ddwd-extractor"
_IDLERS = (_EXTRACTOR, "ddwd-monitor", "ddwd-gateway", "ddwd-storage", "postgresql@17-main")
_TIMES = 5
_SETTLE_SECONDS = 30.0
_TIMER = """
import json, subprocess, sys, time
took = []
for _ in range(int(sys.argv[1])):
    began = time.monotonic()
    subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL)
    took.append(time.monotonic() - began)
print(json.dumps(took))
"""


def measure(portal: Portal, settle: float = _SETTLE_SECONDS) -> dict[str, float]:
    """Seconds of a turn of the cycle while nothing comes, of a start until READY, of `ddwd status`, `ddwd-top --once` and
    `ddwd trace`; share of one core and peak of memory (MB) of the extractor and the monitor. Medians of five."""
    study = _template(portal)["study"]
    found = {"start": median(_start(portal) for _ in range(_TIMES))}
    time.sleep(settle)
    for unit in ("extractor", "monitor"):
        found[f"{unit}_mb"] = memory(portal.machine, f"ddwd-{unit}", "VmHWM")
    before = {unit: _cpu(portal, unit) for unit in _IDLERS}
    time.sleep(settle)
    for unit, seconds in before.items():
        found[f"{unit.removeprefix('ddwd-')}_cpu"] = (_cpu(portal, unit) - seconds) / settle
    found["turn"] = standing(portal.machine)["turn_seconds"]
    found["status"] = _timed(portal, "ddwd", "status")
    found["top"] = _timed(portal, "ddwd-top", "--once")
    found["trace"] = _timed(portal, "ddwd", "trace", study)
    return found


def _start(portal: Portal) -> float:
    """Seconds from the fork of the extractor to its READY=1, by systemd's own clock."""
    portal.machine.run(["systemctl", "restart", _EXTRACTOR])
    began, ready = (
        int(portal.machine.show(_EXTRACTOR, name))
        for name in ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    )
    return (ready - began) / 1e6


def _cpu(portal: Portal, unit: str) -> float:
    """Seconds of processor time that the unit has used."""
    return int(portal.machine.show(unit, "CPUUsageNSec")) / 1e9


def _timed(portal: Portal, *command: str) -> float:
    said = portal.machine.run(["python3", "-c", _TIMER, str(_TIMES), *command], timeout=300).stdout
    took: list[float] = json.loads(said)
    return median(took)


def rows(portal: Portal, scale: Scale) -> list[Row]:
    """What may not grow: each figure at very many finished studies against the same at a few."""
    small, large = scale.finished
    found = []
    for finished in (small, large):
        fill(portal, finished)
        found.append(measure(portal, scale.settle))
    few, many = found
    compared = f"{large} finished studies against {small}"

    def grown(name: str, what: str, key: str) -> Row:
        return Row(f"growth-{name}", f"{what}, {compared}", "x", 1.2, "<=", [many[key] / few[key]])

    with_many = f"with {large} finished studies"
    return [
        grown("turn", "a turn of the extractor", "turn"),
        grown("start", "start of the extractor until READY", "start"),
        grown("status", "ddwd status", "status"),
        Row("start", f"start of the extractor {with_many}", "s", 2.0, "<=", [many["start"]]),
        Row("memory-extractor", f"most resident memory of the extractor {with_many}", "MB", 200.0, "<=", [many["extractor_mb"]]),
    ]  # fmt: skip


def main(sizes: Sequence[int]) -> int:
    """Boot a machine, and print what it costs at each size."""
    with Machine() as machine:
        portal = Portal(machine, newest_deb())
        portal.install()
        for finished in sizes:
            began = time.monotonic()
            fill(portal, finished)
            say(f"{finished} finished studies, laid in {time.monotonic() - began:.0f} s")
            say(json.dumps({name: round(value, 4) for name, value in measure(portal).items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]] or [100, 100_000]))
