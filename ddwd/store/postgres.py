"""One connection to the PostgreSQL database that several extractors share; creates and versions its tables.

Every failure of the server raises PeerDownError and closes the connection, which releases the locks of its session; only `open`
connects again. Safe to use from several threads.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, LiteralString

from ddwd.core import watchdog
from ddwd.core.errors import DdwdError, PeerDownError, StateError
from ddwd.store.ledger import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ddwd.store.psycopg_driver import Connection

    Rows = list[tuple[Any, ...]]

VERSION = 1000 + SCHEMA
"""Version of the tables and of their content: an older extractor does not work on tables whose records it cannot read."""
_CREATING = 0x64647764_00000001  # advisory lock for creating the tables
_LOST_SECONDS = 15  # see psycopg_driver.LOST_SECONDS
_TABLES = """
    create table if not exists ddwd_schema (version integer not null);
    create table if not exists custody (
        study text primary key,
        revision integer not null,
        body text not null,
        extractor text not null,
        written timestamptz not null default now()
    );
    create index if not exists custody_written on custody (written);
    create table if not exists open_study (
        study text primary key,
        key bigint not null,
        extractor text not null,
        since timestamptz not null default now()
    );
    create table if not exists wish (study text primary key);
    create table if not exists extractor (
        name text primary key,
        body text not null,
        written timestamptz not null default now()
    );
    create table if not exists ledger (
        seq bigint generated always as identity primary key,
        extractor text not null,
        at text not null,
        kind text not null,
        study text not null,
        study_uid text not null,
        written timestamptz not null default now(),
        body text not null
    );
    create index if not exists ledger_study on ledger (study) where study <> '';
    create index if not exists ledger_study_uid on ledger (study_uid) where study_uid <> '';
    create index if not exists ledger_at on ledger (at);
    create index if not exists ledger_written on ledger (written)
"""


class PostgresSession:
    """`open`, then `rows` and `transaction`; `term` counts the connections, so that a new session can be recognized."""

    def __init__(self, url: str, password_file: Path | None = None, name: str = "reader") -> None:
        self._url = url
        self._password_file = password_file
        self._name = name
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self.term = 0

    def open(self, *, make: bool = False) -> None:
        """Connect unless connected; with `make`, create the tables if there are none.

        Raises PeerDownError, and StateError for tables of a newer version.
        """
        with self._lock:
            if self._connection is not None:
                return
            self._connection = self._connected()
            self.term += 1
            try:
                self._check(make=make)
            except DdwdError:
                self.close()
                raise

    @property
    def is_open(self) -> bool:
        """Whether there is a session, as far as this process can see."""
        return self._connection is not None

    def close(self) -> None:
        """End the session."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def rows(self, statement: LiteralString, values: Sequence[object] = ()) -> Rows:
        """Run one statement, alone or as part of `transaction`, and return its rows. Raises PeerDownError."""
        with self._lock, self._translated() as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all statements of the block, or none. Raises PeerDownError."""
        with self._lock, self._translated() as connection, connection.transaction():
            yield

    def _connected(self) -> Connection:
        try:
            from ddwd.store import psycopg_driver  # noqa: PLC0415 - a recommended package, and only this mode needs it
        except ImportError as error:
            raise StateError(f"ledger.shared needs the package python3-psycopg ({error})") from error
        password = self._password()
        watchdog.alive(_LOST_SECONDS * (1 + self._url.count(",")))  # each server in turn, and its name
        try:
            return psycopg_driver.connect(self._url, f"ddwd {self._name}", password)
        except psycopg_driver.Error as error:
            raise _unavailable(error) from error

    def _password(self) -> str:
        if self._password_file is None:
            return ""
        try:
            return self._password_file.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise PeerDownError(f"ledger.password_file: {self._password_file}: {reason}") from error

    @contextlib.contextmanager
    def _translated(self) -> Iterator[Connection]:
        """Yield the connection; an error of the driver closes it."""
        if self._connection is None:
            raise PeerDownError("the shared ledger is not connected")
        from ddwd.store import psycopg_driver  # noqa: PLC0415 - as above

        watchdog.alive(_LOST_SECONDS)
        try:
            yield self._connection
        except psycopg_driver.Error as error:
            self.close()
            raise _unavailable(error) from error
        finally:
            watchdog.alive(0.0)

    def _check(self, *, make: bool) -> None:
        """Check the version of the tables; with `make`, create or upgrade them. Newer tables stay as they are."""
        version = self._version()
        if make and (version is None or version < VERSION):
            version = self._create()
        if version is None:
            raise PeerDownError(
                "the shared ledger has no tables yet: an extractor creates them when it starts"
            )
        if version > VERSION:
            raise StateError(
                f"the shared ledger is of a newer ddwd (schema {version}, this one reads {VERSION} and before): "
                "apt upgrade this machine too"
            )

    def _version(self) -> int | None:
        [(table,)] = self.rows("select to_regclass('ddwd_schema')")
        found = self.rows("select version from ddwd_schema") if table is not None else []
        return int(found[0][0]) if found else None

    def _create(self) -> int:
        """Create the tables, one extractor at a time, and return their version. Ends the sessions of older extractors."""
        with self.transaction():
            self.rows("select pg_advisory_xact_lock(%s)", [_CREATING])
            if (version := self._version()) is not None and version >= VERSION:
                return version
            self.rows(_TABLES)
            self.rows("delete from ddwd_schema")
            self.rows("insert into ddwd_schema values (%s)", [VERSION])
        self.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
            " and datname = current_database() and usename = current_user and application_name like 'ddwd extractor %'"
        )
        return VERSION


class ReadDatabase(PostgresSession):
    """A connection for readers, which hold no lock: it is opened when needed."""

    def rows(self, statement: LiteralString, values: Sequence[object] = ()) -> Rows:
        """Run one statement as PostgresSession does, in a new session if there is none. Raises StateError too."""
        self.open()
        return super().rows(statement, values)

    def __del__(self) -> None:
        self.close()


def _unavailable(error: Exception) -> PeerDownError:
    """Return an error with the first line of the message of server or driver; further lines may contain values."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return PeerDownError(f"the shared ledger does not answer: {lines[0]}")
