"""The PostgreSQL driver psycopg with a deadline for every wait. psycopg is a recommended package: import this module only when needed.

libpq detects a silent host (keepalives, tcp_user_timeout), and the server aborts slow statements; neither detects a server process
that was stopped while its host still acknowledges packets. Therefore every wait for an answer has a deadline here.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo

Error = psycopg.Error

CONNECT_SECONDS = 5
ANSWER_SECONDS = 10
LOST_SECONDS = 15
"""When a host has sent no packet for this time, the other side ends the session, which releases its locks."""
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
    """Open a session with the application name `name`, on the server of `url` that is writable. Raises Error."""
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
    """A connection on which every statement completes or fails within LOST_SECONDS."""

    def wait(self, gen: PQGen[_Answer], interval: float | None = _INTERVAL) -> _Answer:
        """See psycopg.Connection. Raises OperationalError."""
        return super().wait(_bounded(gen), interval)


def _bounded(gen: PQGen[_Answer]) -> PQGen[_Answer]:
    """Yield the steps of `gen`. Raises OperationalError after the deadline."""
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
