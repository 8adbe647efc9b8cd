"""The retry schedule: growing between two bounds, and forgotten by a success."""

from __future__ import annotations

import pytest

from ddwd.core.retry import Backoff, retry_delay


@pytest.mark.parametrize(
    ("first", "longest", "factor", "waits"),
    [
        (1.0, 30.0, 2.0, [1, 2, 4, 8, 16, 30, 30]),
        (10.0, 600.0, 2.0, [10, 20, 40, 80, 160, 320, 600]),
        (30.0, 1800.0, 2.0, [30, 60, 120, 240, 480, 960, 1800]),
        (5.0, 5.0, 2.0, [5, 5, 5, 5, 5, 5, 5]),
        (10.0, 3600.0, 4.0, [10, 40, 160, 640, 2560, 3600, 3600]),
    ],
)
def test_each_failure_in_a_row_multiplies_the_wait_up_to_the_limit(
    first: float, longest: float, factor: float, waits: list[int]
) -> None:
    assert [retry_delay(number, first, longest, factor) for number in range(1, 8)] == waits
    backoff = Backoff(first, longest, factor)
    assert [backoff.failed() for _ in range(7)] == waits


def test_without_a_failure_there_is_no_wait() -> None:
    assert retry_delay(0) == 0.0
    assert retry_delay(-1) == 0.0


def test_failures_without_number_neither_overflow_nor_exceed_the_limit() -> None:
    assert retry_delay(1_000_000, 1.0, 300.0) == 300.0


def test_a_success_forgets_the_failures() -> None:
    backoff = Backoff(10.0, 600.0)
    backoff.failed()
    backoff.failed()
    assert backoff.failures == 2
    backoff.succeeded()
    assert backoff.failures == 0
    assert backoff.failed() == 10.0


def test_a_limit_below_the_first_value_is_the_wait() -> None:
    assert Backoff(10.0, 5.0).failed() == 5.0
