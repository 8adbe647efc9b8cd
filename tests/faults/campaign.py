"""Seeded rounds: continuous sending, one or two faults, healing, the oracle. The same seed and round give the same plan."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from tests.appliance.conftest import OUTPUT_DIR, UNITS
from tests.faults.nemesis import FAULTS, NEEDS_TRAFFIC
from tests.faults.oracle import Sent, Verdict, Watcher, judge, lost, sent
from tests.machine.modality import GATEWAY_PORT
from tests.machine.network import MACHINE_ADDRESS
from tests.studies import NATIVE, made_up_ct, real_studies, renewed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.machine import Machine
    from tests.machine.modality import Sending
    from tests.studies import Study

HEALING_SECONDS = 60.0
"""The promise: everything acknowledged is on disk this long after the last fault healed and the portal answers."""
BACK_SECONDS = 120.0


@dataclass(frozen=True)
class MadeUp:
    """A made-up CT: `size` pixels a side, its slices spread over `series`."""

    seed: int
    patient_id: str
    slices: int
    size: int
    series: int

    def write(self, folder: Path) -> Study:
        """Write its files."""
        return made_up_ct(
            folder,
            self.slices,
            seed=self.seed,
            patient_id=self.patient_id,
            size=self.size,
            series=self.series,
        )


@dataclass(frozen=True)
class Real:
    """One of the real studies in a native transfer syntax (what storescu proposes by itself), under new UIDs."""

    seed: int
    choice: int

    def write(self, folder: Path) -> Study:
        """Write its files."""
        names = {syntax.name for syntax in NATIVE}
        native = [
            one for one in real_studies() if all(image.transfer_syntax in names for image in one.instances)
        ]
        return renewed(folder, native[self.choice % len(native)], seed=self.seed)


@dataclass(frozen=True)
class Plan:
    """What one round does. Of `studies` the first is sent in two parts, the last twice."""

    seed: int
    number: int
    faults: tuple[str, ...]
    studies: tuple[MadeUp | Real, ...]

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
    first = (seed % 10_000_000) * 100_000 + number * 10
    made = []
    for one in range(chance.randint(3, 5)):
        slices, size = chance.choice([(4, 16), (20, 64), (40, 64), (25, 128), (8, 256)])
        made.append(MadeUp(first + one, f"FAULT-{one}", slices, size, chance.randint(1, 3)))
    real = Real(first + len(made), chance.randrange(1000))
    twin = replace(made[0], patient_id="FAULT-TWIN")  # one StudyInstanceUID under two patients
    return Plan(seed, number, tuple(faults), (*made, real, twin))


@dataclass
class Outcome:
    """How a round ended; `healed` is seconds from the last fault's end to the last acknowledged image on disk.

    `broken_off` says what ended a round early; such a round has proved nothing, and counts as failed.
    """

    seed: int
    number: int
    faults: tuple[str, ...]
    sent: int = 0
    acknowledged: int = 0
    healed: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    broken_off: str = ""

    @property
    def holds(self) -> bool:
        """True where the round came to its end and the promise was kept."""
        return not self.broken_off and self.verdict.holds

    def line(self) -> str:
        """One line for people."""
        head = f"round {self.number:3}  {', '.join(self.faults):<44} sent {self.sent:4}  "
        if self.broken_off:
            return f"{head}BROKEN OFF: {self.broken_off.splitlines()[0]}"
        counts = " ".join(f"{name} {count}" for name, count in self.verdict.counts().items())
        return f"{head}acknowledged {self.acknowledged:4}  {counts}  healed in {self.healed:.1f} s"


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

    def __init__(self, machine: Machine, folder: Path, idle: int = 0) -> None:
        self._machine = machine
        self._folder = folder
        self._idle = idle
        if idle:
            there = (MACHINE_ADDRESS, str(GATEWAY_PORT), "ORTHANC1", str(idle))
            argv = [*machine.modality.netns_argv(), sys.executable, "-m", "tests.faults.idle", *there]
            machine.modality.start_on_host(argv)
        self._output = machine.path(OUTPUT_DIR)
        self._all: dict[str, Sent] = {}
        self._owed: dict[str, Sent] = {}

    def run(self, this: Plan) -> Outcome:
        """One round; the machine is whole again at its end."""
        studies = [self._write(this, number) for number in range(len(this.studies))]
        files = [one for study in studies for one in study]
        self._all |= {one.target: one for one in files}
        outcome = Outcome(this.seed, this.number, this.faults, sent=len(files))
        senders = Senders(self._machine, files)
        try:
            self._play(this, studies, senders, outcome)
        except Exception as error:  # noqa: BLE001 - the campaign goes on, with a machine that is whole
            outcome.broken_off = f"{type(error).__name__}: {error}"
        return outcome

    def _play(self, this: Plan, studies: list[list[Sent]], senders: Senders, outcome: Outcome) -> None:
        watcher = Watcher(self._output, senders.acknowledged)
        watcher.start()
        try:
            self._await_idle()
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
        files = [one for study in studies for one in study]
        outcome.verdict = self._whole(judge(files, senders.acknowledged(), self._output), watcher)

    def _write(self, this: Plan, number: int) -> list[Sent]:
        study = this.studies[number].write(self._folder / f"{this.number}" / f"{number}")
        return [sent(path) for path in study.paths]

    def _break(self, this: Plan, studies: list[list[Sent]], senders: Senders) -> None:
        """Send, break in the middle, send on (resends and late images among it), heal."""
        chance = this.chance
        late = studies[0][-2:]
        for study in studies:
            senders.start([one.path for one in study if one not in late])
        time.sleep(chance.uniform(0.1, 1.5))
        with ExitStack() as broken:
            # what bites only while images flow comes before what stops them
            for name in sorted(this.faults, key=lambda name: name not in NEEDS_TRAFFIC):
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
        self._await_idle()

    def _await_idle(self) -> None:
        """Wait until ddwd-acceptor counts the idle associations: a round without them proves nothing about them."""
        self._machine.wait_for(
            lambda: self._open_associations() >= self._idle,
            limit=BACK_SECONDS,
            what="the idle associations are not open",
        )

    def _open_associations(self) -> int:
        status = self._machine.run(["cat", "/run/ddwd/acceptor/status.json"], check=False).stdout
        return int(json.loads(status)["associations"]) if status else 0  # none: the portal is about to start

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

    def recover(self) -> None:
        """After a round that broke off: the machine starts anew."""
        self._machine.crash()
        self._await_back()

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
        "broken_off": sum(bool(outcome.broken_off) for outcome in outcomes),
        "sent": sum(outcome.sent for outcome in outcomes),
        "acknowledged": sum(outcome.acknowledged for outcome in outcomes),
        "faults": dict(sorted(Counter(name for outcome in outcomes for name in outcome.faults).items())),
        **wrong,
        "slowest_healing_seconds": round(max((outcome.healed for outcome in outcomes), default=0), 1),
    }
