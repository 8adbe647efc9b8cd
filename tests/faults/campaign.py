"""Seeded rounds: continuous sending, one or two faults, healing, the oracle. The same seed and round give the same plan."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from tests.appliance.conftest import OUTPUT_DIR, UNITS
from tests.faults.nemesis import FAULTS
from tests.faults.oracle import Sent, Verdict, Watcher, judge, lost, sent
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.machine import Machine
    from tests.machine.modality import Sending

HEALING_SECONDS = 60.0
"""The promise: everything acknowledged is on disk this long after the last fault healed and the portal answers."""
BACK_SECONDS = 120.0


@dataclass(frozen=True)
class Plan:
    """What one round does."""

    seed: int
    number: int
    faults: tuple[str, ...]
    studies: tuple[tuple[int, int, int, str], ...]
    """(study seed, slices, pixels a side, PatientID)"""

    @property
    def chance(self) -> random.Random:
        """Everything left to chance while the round runs."""
        return random.Random(f"{self.seed}/{self.number}/run")  # noqa: S311 - must be replayable


def plan(seed: int, number: int) -> Plan:
    """Round `number` of a campaign: faults in turn by a shuffled list, so that each comes up equally often; sometimes a second one."""
    order = sorted(FAULTS)
    random.Random(f"{seed}/{number // len(order)}").shuffle(order)  # noqa: S311 - must be replayable
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - must be replayable
    faults = [order[number % len(order)]]
    if chance.random() < 0.3:
        faults.append(chance.choice([name for name in order if name != faults[0]]))
    studies = []
    for one in range(chance.randint(3, 5)):
        study = (seed % 10_000_000) * 100_000 + number * 10 + one
        slices, size = chance.choice([(4, 16), (20, 64), (40, 64), (25, 128), (8, 256)])
        studies.append((study, slices, size, f"FAULT-{one}"))
    twin = studies[0]
    studies.append((twin[0], twin[1], twin[2], "FAULT-TWIN"))  # one StudyInstanceUID under two patients
    return Plan(seed, number, tuple(faults), tuple(studies))


@dataclass
class Outcome:
    """How a round ended; `healed` is seconds from the last fault's end to the last acknowledged image on disk."""

    seed: int
    number: int
    faults: tuple[str, ...]
    sent: int = 0
    acknowledged: int = 0
    healed: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)

    def line(self) -> str:
        """One line for people."""
        counts = " ".join(f"{name} {count}" for name, count in self.verdict.counts().items())
        return (
            f"round {self.number:3}  {', '.join(self.faults):<44} sent {self.sent:4}  "
            f"acknowledged {self.acknowledged:4}  {counts}  healed in {self.healed:.1f} s"
        )


class Senders:
    """Modalities at work: each sends its study, once or again and again until it is all acknowledged."""

    def __init__(self, machine: Machine, files: Iterable[Sent]) -> None:
        self._machine = machine
        self._known = {one.path: one for one in files}
        self._sendings: list[Sending] = []
        self._done: dict[Path, Sent] = {}
        self._read: set[int] = set()

    def start(self, paths: list[Path]) -> None:
        """Send these files on one association."""
        modality = self._machine.modality
        self._sendings.append(modality.start(modality.storescu_argv(*paths)))

    def acknowledged(self) -> list[Sent]:
        """Every file that was ever answered with Success."""
        for number, sending in enumerate(list(self._sendings)):
            if number in self._read:
                continue
            ended = sending.process.poll() is not None
            for path in sending.acknowledged():
                self._done[path] = self._known[path]
            if ended:
                self._read.add(number)
        return list(self._done.values())

    def wait(self, seconds: float) -> None:
        """Let them come to their end, and end those that hang."""
        deadline = time.monotonic() + seconds
        for sending in self._sendings:
            try:
                sending.process.wait(max(0.1, deadline - time.monotonic()))
            except Exception:  # noqa: BLE001 - a modality that hangs is switched off
                sending.process.kill()
                sending.process.wait()


class Campaign:
    """Runs rounds in one machine, one after the other; files and oracle cover all rounds so far."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self._machine = machine
        self._folder = folder
        self._output = machine.path(OUTPUT_DIR)
        self._all: dict[str, Sent] = {}
        self._owed: dict[str, Sent] = {}

    def run(self, this: Plan) -> Outcome:
        """One round; the machine is whole again at its end."""
        studies = [self._make(this.number, *study) for study in this.studies]
        files = [one for study in studies for one in study]
        self._all |= {one.target: one for one in files}
        outcome = Outcome(this.seed, this.number, this.faults, sent=len(files))
        senders = Senders(self._machine, files)
        watcher = Watcher(self._output, senders.acknowledged)
        watcher.start()
        try:
            self._break(this, studies, senders)
            self._await_back()
            began = time.monotonic()
            senders.wait(30)
            self._owed |= {one.target: one for one in senders.acknowledged()}
            self._await_delivery(HEALING_SECONDS)
            outcome.healed = time.monotonic() - began
        finally:
            watcher.end()
        outcome.acknowledged = len(senders.acknowledged())
        outcome.verdict = judge(files, senders.acknowledged(), self._output)
        outcome.verdict = self._whole(outcome.verdict, watcher)
        return outcome

    def _make(self, number: int, seed: int, slices: int, size: int, patient: str) -> list[Sent]:
        folder = self._folder / f"{number}" / f"{seed}-{patient}"
        study = made_up_ct(folder, slices, seed=seed, patient_id=patient, size=size)
        return [sent(path) for path in study.paths]

    def _break(self, this: Plan, studies: list[list[Sent]], senders: Senders) -> None:
        """Send, break in the middle, send on (resends and late images among it), heal."""
        chance = this.chance
        late = studies[0][-2:]
        for study in studies:
            senders.start([one.path for one in study if one not in late])
        time.sleep(chance.uniform(0.1, 1.5))
        with ExitStack() as broken:
            for name in this.faults:
                broken.enter_context(FAULTS[name](self._machine, chance))
            senders.start([one.path for one in studies[0]])  # a resend, with late images
            senders.start([one.path for one in studies[-1]])
            time.sleep(chance.uniform(0.5, 2))
        senders.start([one.path for one in studies[1]])

    def _await_back(self) -> None:
        machine = self._machine
        machine.wait_for(
            lambda: machine.is_active(*UNITS) and machine.modality.echoscu(check=False),
            limit=BACK_SECONDS, every=0.5, what="the portal is not back",
        )  # fmt: skip

    def _await_delivery(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while lost(self._owed.values(), self._output) and time.monotonic() < deadline:
            time.sleep(0.25)

    def _whole(self, verdict: Verdict, watcher: Watcher) -> Verdict:
        """This round's files by content, all rounds' files by name."""
        verdict.lost = lost(self._owed.values(), self._output)
        verdict.foreign = [name for name in verdict.foreign if name not in self._all]
        verdict.partial = watcher.partial
        return verdict

    def tidy(self, this: Plan) -> None:
        """Forget the files of a round that went well; what is on disk stays and is looked for to the end."""
        shutil.rmtree(self._folder / f"{this.number}", ignore_errors=True)


def evidence(machine: Machine, outcome: Outcome, folder: Path) -> None:
    """Keep what explains a broken promise."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "outcome.json").write_text(json.dumps(asdict(outcome), indent=1), encoding="utf-8")
    (folder / "journal.txt").write_text(machine.journal(lines=20_000), encoding="utf-8")
    for name in ("state", "quarantine"):
        shutil.copytree(machine.path(f"/var/lib/ddwd/{name}"), folder / name, dirs_exist_ok=True)
    tree = sorted(str(path) for path in machine.path(OUTPUT_DIR).rglob("*"))
    (folder / "tree.txt").write_text("\n".join(tree) + "\n", encoding="utf-8")


def summary(outcomes: list[Outcome]) -> dict[str, object]:
    """The figures of a campaign."""
    wrong: Counter[str] = Counter()
    for outcome in outcomes:
        wrong.update(outcome.verdict.counts())
    return {
        "rounds": len(outcomes),
        "sent": sum(outcome.sent for outcome in outcomes),
        "acknowledged": sum(outcome.acknowledged for outcome in outcomes),
        "faults": dict(sorted(Counter(name for outcome in outcomes for name in outcome.faults).items())),
        **wrong,
        "slowest_healing_seconds": round(max((outcome.healed for outcome in outcomes), default=0), 1),
    }
