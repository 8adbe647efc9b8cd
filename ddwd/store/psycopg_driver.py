"""The PostgreSQL driver, psycopg, with an end to every wait; a recommended package, so that this module is imported where it is needed.

libpq notices a peer whose host is silent (keepalives, tcp_user_timeout), and the server ends what takes it too long; neither helps
against a server that was stopped in the middle, whose host goes on acknowledging. So every wait for an answer has a deadline here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from psycopg.abc import PQGen

Error = psycopg.Error

CONNECT_SECONDS = 5
ANSWER_SECONDS = 10
LOST_SECONDS = 15
"""A host that is silent for so long is given up, by either side: its session ends, and what that held is free."""
_INTERVAL = 0.5
_Answer = TypeVar("_Answer")
_SESSION = f"""
    set statement_timeout = '{ANSWER_SECONDS}s';
    set lock_timeout = '{ANSWER_SECONDS // 2}s';
    set tcp_keepalives_idle = {LOST_SECONDS // 3};
    set tcp_keepalives_interval = {LOST_SECONDS // 3};
    set tcp_keepalives_count = 2;
    set tcp_user_timeout = '{LOST_SECONDS}s'
"""


def connect(url: str, name: str, password: str) -> Connection:
    """A session by the name of `name`, on the server of `url` that can be written to. Raises Error."""
    more = {} if "target_session_attrs=" in url else {"target_session_attrs": "read-write"}
    if password:
        more["password"] = password
    connection = Connection.connect(
        make_conninfo(url, **more),
        autocommit=True,
        application_name=name,
        connect_timeout=CONNECT_SECONDS,
        keepalives_idle=LOST_SECONDS // 3,
        keepalives_interval=LOST_SECONDS // 3,
        keepalives_count=2,
        tcp_user_timeout=LOST_SECONDS * 1000,
    )
    try:
        connection.execute(_SESSION)
    except Error:
        connection.close()
        raise
    return connection


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """One whose every statement is answered within LOST_SECONDS, or fails."""

    def wait(self, gen: PQGen[_Answer], interval: float | None = _INTERVAL) -> _Answer:
        """See psycopg.Connection. Raises OperationalError."""
        return super().wait(_bounded(gen), interval)


def _bounded(gen: PQGen[_Answer]) -> PQGen[_Answer]:
    """The same steps, until it is too late."""
    latest = time.monotonic() + LOST_SECONDS
    try:
        step = next(gen)
        while True:
            ready = yield step
            if time.monotonic() > latest:
                raise psycopg.OperationalError(f"no answer within {LOST_SECONDS} s")
            step = gen.send(ready)
    except StopIteration as end:
        answer: _Answer = end.value
        return answer
