"""Hostile traffic against the real receiver in a process of its own: after each attack it lives, has used little memory, and left nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hostile.attacks import ATTACKS, image
from tests.hostile.figures import Row, high_water, note, table
from tests.hostile.wire import Target, echo, store_image, told

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = Path(__file__).resolve().parents[2]
MOST_MEGABYTES = 300.0
"""Of the whole process; at rest it has about 50, and one connection up to 1.5."""
ALONE = """
import sys, threading
from pathlib import Path
from ddwd.config.schema import Config, Scp
from ddwd.dicom.store_scp import StoreScp
from ddwd.dicom.upper_layer import UpperLayer
scp = StoreScp(Config(scp=Scp(port=0), output_dir=Path(sys.argv[1])))
scp.start()
print(scp.port, flush=True)
for _ in sys.stdin:  # each line asks for the end of all associations, and of all that they do at their end
    with scp._changed:
        scp._changed.wait_for(lambda: not scp._open)
    for thread in threading.enumerate():
        if isinstance(thread, UpperLayer):
            thread.join()
    print("quiet", flush=True)
scp.stop(5)
"""
"""The receiver: prints its port, then a line whenever it was asked for one and nothing is left that it works on."""
TAKEN = {"0x0000"}
REFUSED = {"0xA900", "0xC000", "0xA700", "abort", "closed"}
EXPECTED = {
    "forged-pdu-length": {"cut off after < 16 MB"},
    "forged-item-length": {"abort", "closed", "rejected"},
    "idle-connections": TAKEN,
    "slow-loris": TAKEN,
    "association-flood": {"held", "refused", "image meanwhile: 0x0000"},
    "abort-at-every-byte": {"cut"},
    "endless-message": {"abort", "silence"},
    "uids-disagree": {"0xA900"},
    "illegal-uids": TAKEN | REFUSED,
    "huge-sequence": {"0xC000"},
    "nested-sequences": {"100: 0x0000", "1000: 0x0000", "10000: 0x0000", "100000: 0x0000"},
    "undefined-lengths": TAKEN | REFUSED,
    "every-transfer-syntax": TAKEN | REFUSED,
    "private-classes": TAKEN,
    "deflate-bomb": TAKEN | REFUSED,
    "truncated-data-sets": TAKEN | REFUSED,
    "random-data-sets": TAKEN | REFUSED,
    "executables": {"0xA900", "0xC000"},
}


def _environment() -> dict[str, str]:
    """What the unit of the receiver sets."""
    unit = (REPO / "systemd" / "ddwd-scp.service").read_text(encoding="utf-8")
    return dict(re.findall(r"^Environment=(\w+)=(.*)$", unit, re.MULTILINE))


class Receiver:
    """The SCP in a process of its own, and its folders."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "out"
        self.process = subprocess.Popen(
            [sys.executable, "-c", ALONE, str(self.output)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPO,
            env=os.environ | _environment(),
        )  # fmt: skip
        self.target = Target("127.0.0.1", int(self._said()), "PYTHON_SCP", None)

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def forget_high_water(self) -> None:
        """Let the high-water begin anew (proc(5), clear_refs)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")

    def high_water(self) -> float:
        """Megabytes since then."""
        return high_water(Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii"))

    def wait_quiet(self) -> None:
        """Wait until it has ended every association whose peer has gone, and has swept what was cut off."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self._said() == "quiet\n"

    def outside(self) -> list[Path]:
        """Files that are not in the spool."""
        spool = self.output / ".ddwd" / "spool"
        everything = [path for path in self.output.parent.rglob("*") if not path.is_dir()]
        return [
            path
            for path in everything
            if len(path.relative_to(self.output).parts) != 4 or spool not in path.parents
        ]


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One receiver lives through all attacks."""
    one = Receiver(tmp_path_factory.mktemp("hostile"))
    yield one
    one.process.communicate(timeout=30)


@pytest.fixture(scope="module", autouse=True)
def rows() -> Iterator[list[Row]]:
    """The figures; shown at the end."""
    found: list[Row] = []
    yield found
    print(f"\n{table(found)}")  # noqa: T201 - for people


@pytest.mark.parametrize("name", ATTACKS)
def test_the_receiver_lives_on_in_bounds_and_leaves_nothing(
    receiver: Receiver, rows: list[Row], name: str
) -> None:
    receiver.forget_high_water()
    outcome = ATTACKS[name](receiver.target)
    row = Row("SCP", name, receiver.high_water(), 0, told(outcome))
    rows.append(row)
    note(row)
    assert receiver.process.poll() is None
    assert echo(receiver.target)
    assert outcome.keys() <= EXPECTED[name], outcome
    assert outcome
    assert row.megabytes < MOST_MEGABYTES
    receiver.wait_quiet()
    assert receiver.outside() == []


def test_after_all_of_them_an_image_is_taken(receiver: Receiver) -> None:
    assert store_image(receiver.target, image(99)) == "0x0000"


def test_what_was_taken_under_illegal_uids_is_under_harmless_names(receiver: Receiver) -> None:
    ATTACKS["illegal-uids"](receiver.target)
    names = [path.name for path in (receiver.output / ".ddwd" / "spool").rglob("*")]
    assert not [name for name in names if not name.isascii() or name[0] in ".-"]
    assert Counter(name.lower() for name in names).most_common(1)[0][1] == 1
