"""Who ends ORTHANC1 again and again is held off for a while; who merely sent at that time is not."""

from __future__ import annotations

from ddwd.acceptor.hold_off import HoldOff
from tests.unit.fakes import FakeClock

GUILTY, OTHER = "10.0.0.1", "10.0.0.2"


def test_an_address_is_held_off_for_ten_minutes_after_three_crashes_within_ten() -> None:
    clock = FakeClock()
    hold_off = HoldOff(clock)
    held = []
    for number in range(3):
        hold_off.cut("US1", GUILTY, f"1.2.{number}")
        held.append(hold_off.gateway_crashed())
    assert held == [[], [], [("US1", GUILTY)]]
    assert hold_off.seconds(GUILTY) == 600
    assert hold_off.seconds(OTHER) == 0
    clock.advance(599)
    assert hold_off.seconds(GUILTY) == 1
    clock.advance(2)
    assert hold_off.seconds(GUILTY) == 0
    assert hold_off.held() == {}


def test_crashes_that_lie_far_apart_hold_nobody_off() -> None:
    clock = FakeClock()
    hold_off = HoldOff(clock)
    for _ in range(10):
        hold_off.cut("US1", GUILTY, "1.2.3")
        assert hold_off.gateway_crashed() == []
        clock.advance(301)


def test_one_crash_counts_once_however_many_associations_of_an_address_it_cuts() -> None:
    hold_off = HoldOff(FakeClock())
    for number in range(10):
        hold_off.cut(f"US{number}", GUILTY, f"1.2.{number}")
    assert hold_off.gateway_crashed() == []
    assert hold_off.held() == {}


def test_who_sends_the_same_image_again_and_it_is_stored_is_not_held_off_with_the_one_who_crashes() -> None:
    hold_off = HoldOff(FakeClock())
    for number in range(5):
        if not hold_off.seconds(GUILTY):
            hold_off.cut("US1", GUILTY, "1.2.3")
        hold_off.cut("CT1", OTHER, f"1.3.{number}")
        hold_off.gateway_crashed()
        hold_off.stored(OTHER, f"1.3.{number}")
    assert list(hold_off.held()) == [GUILTY]


def test_a_connection_that_ended_long_before_the_crash_is_not_suspected() -> None:
    clock = FakeClock()
    hold_off = HoldOff(clock)
    for _ in range(5):
        hold_off.cut("US1", GUILTY, "1.2.3")
        clock.advance(16)
        assert hold_off.gateway_crashed() == []
    assert hold_off.held() == {}


def test_other_images_that_are_stored_absolve_nobody() -> None:
    hold_off = HoldOff(FakeClock())
    for number in range(3):
        hold_off.cut("US1", GUILTY, "1.2.3")
        hold_off.gateway_crashed()
        hold_off.stored(GUILTY, f"1.2.4.{number}")
    assert list(hold_off.held()) == [GUILTY]
