"""Rounds of the campaign, one for each way in which something can break: three kinds in `make test`, all six in `make certify`; `make faults` runs as many as wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.__main__ import run
from tests.faults.campaign import plan
from tests.faults.nemesis import FAULTS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.appliance.conftest import Portal

SEED = 20261124
KINDS = (
    "kill ddwd-gateway",
    "kill ddwd-scp",
    "stop postgresql at once",
    "crash",
    "full output",
    "swallowing peer",
)
THREE = ("kill ddwd-scp", "stop postgresql at once", "full output")


def _rounds(kinds: tuple[str, ...]) -> list[int]:
    """The first round of each kind that has this one fault."""
    plans = [plan(SEED, number) for number in range(10 * len(FAULTS))]
    return [next(one.number for one in plans if one.faults == (kind,)) for kind in kinds]


def test_the_same_seed_and_round_are_the_same_plan() -> None:
    assert plan(SEED, 3) == plan(SEED, 3)
    assert plan(SEED, 3) != plan(SEED + 1, 3)


def test_each_kind_of_fault_comes_up_in_each_turn_of_the_list() -> None:
    assert {plan(SEED, number).faults[0] for number in range(len(FAULTS))} == set(FAULTS)


def test_three_rounds_lose_double_and_change_nothing_and_show_nothing_partial(
    portal: Portal, tmp_path: Path
) -> None:
    _assert_rounds_hold(portal, tmp_path, THREE)


def test_six_rounds_lose_double_and_change_nothing_and_show_nothing_partial(
    portal: Portal, tmp_path: Path
) -> None:
    _assert_rounds_hold(portal, tmp_path, KINDS)


def _assert_rounds_hold(portal: Portal, folder: Path, kinds: tuple[str, ...]) -> None:
    outcomes = run(portal.machine, folder, SEED, _rounds(kinds))
    assert [outcome.line() for outcome in outcomes if not outcome.holds] == []
    assert all(outcome.acknowledged for outcome in outcomes)
    _assert_one_flipped_byte_is_noticed(portal)


def _assert_one_flipped_byte_is_noticed(portal: Portal) -> None:
    def verify() -> int:
        return portal.machine.run(["ddwd", "verify", "--all"], check=False).returncode

    assert verify() == 0
    victim = next(path for path in portal.output.rglob("*.dcm") if ".ddwd" not in path.parts)
    sound = victim.read_bytes()
    victim.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert verify() == 1
    victim.write_bytes(sound)
    assert verify() == 0
