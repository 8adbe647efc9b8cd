"""One image at a time: turns come in the order in which they were asked for, lapse, and are waited for no longer than asked."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from ddwd.acceptor.turns import Turns
from tests.dicom.conftest import wait_until

if TYPE_CHECKING:
    from ddwd.acceptor.turns import Turn

LONG = 60.0


def had(turns: Turns, patience: float = LONG) -> Turn:
    """Take a turn that must come."""
    turn = turns.take(patience)
    assert turn is not None
    return turn


def test_turns_come_one_after_the_other_in_their_order() -> None:
    turns, order = Turns(LONG), list[int]()
    first = had(turns)

    def wait(number: int) -> None:
        turn = had(turns)
        order.append(number)
        turns.end(turn)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    for thread in threads:
        waiting = turns.waiting
        thread.start()
        wait_until(partial(lambda before: turns.waiting > before, waiting))
    assert not order
    turns.end(first)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_turn_that_lasts_too_long_holds_up_nobody_and_its_end_ends_no_other() -> None:
    turns = Turns(lapse=0.05)
    late = had(turns)
    next_one = had(turns)
    turns.end(late)
    assert turns.take(0.0) is None
    turns.end(next_one)
    had(turns)


def test_who_waits_in_vain_is_told_and_takes_no_turn_from_others() -> None:
    turns = Turns(LONG)
    first = had(turns)
    assert turns.take(0.05) is None
    turns.end(first)
    had(turns)
