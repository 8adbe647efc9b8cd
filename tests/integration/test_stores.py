"""Ledger, custody records and claims in PostgreSQL: what several extractors may rely on."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ddwd.core.errors import HeldElsewhereError, PeerDownError, StateError
from ddwd.core.model import OrthancId
from ddwd.store import postgres, psycopg_driver
from ddwd.store.backends import Stores, shared_stores
from ddwd.store.claims import SharedWork
from ddwd.store.custody import Custody, InstanceRecord, Peek, Record
from ddwd.store.postgres import VERSION, PostgresSession, ReadDatabase
from ddwd.store.postgres_store import SharedCustody, SharedHistory
from tests.unit.fakes import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.postgresql import PostgresServer

_ONE = OrthancId("-".join(["0123abcd"] * 5))
_OTHER = OrthancId("-".join(["fedc4321"] * 5))
_KEPT = InstanceRecord(
    OrthancId("-".join(["00000001"] * 5)),
    "1.2.3",
    "1.2/1.2.3.dcm",
    7,
    "ab" * 32,
    "cd" * 16,
    "identical",
    at_gateway=True,
)
_RECORD = Record(_ONE, "1.2", "ACC", "P/1.2", 1, "2026-11-25T08:00:00Z", images={_KEPT.orthanc_id: _KEPT})


@pytest.fixture
def stores(
    server: PostgresServer, ledger: str, tmp_path: Path
) -> Iterator[Callable[..., tuple[Stores, PostgresSession]]]:
    """Make an extractor's stores, in a session of its own."""
    opened: list[PostgresSession] = []

    def make(extractor: str, clock: FakeClock | None = None) -> tuple[Stores, PostgresSession]:
        session = PostgresSession(server.url(ledger), name=extractor)
        opened.append(session)
        made = shared_stores(session, extractor, clock or FakeClock(), 1, tmp_path / extractor)
        assert made.claims.connect()
        return made, session

    yield make
    for session in opened:
        session.close()


def test_a_study_is_one_extractors_at_a_time(stores: Callable[..., tuple[Stores, PostgresSession]]) -> None:
    (here, _), (there, _) = stores("A"), stores("B")
    here.claims.take(_ONE)
    here.claims.take(_ONE)  # it has it already
    with pytest.raises(HeldElsewhereError):
        there.claims.take(_ONE)
    there.claims.take(_OTHER)
    here.claims.done(_ONE)
    there.claims.take(_ONE)
    assert there.claims.holds(_ONE)
    assert not here.claims.holds(_ONE)


def test_what_an_extractor_leaves_when_it_dies_is_told_to_the_others(
    server: PostgresServer, stores: Callable[..., tuple[Stores, PostgresSession]]
) -> None:
    clock = FakeClock()
    (here, session), (there, _) = stores("A"), stores("B", clock)
    here.claims.take(_ONE)
    assert there.claims.shared_work() == SharedWork()
    session.close()  # as the end of the process does
    server.wait_ended("ddwd A")
    clock.advance(5)
    assert there.claims.shared_work() == SharedWork(abandoned=[_ONE])
    there.claims.take(_ONE)
    clock.advance(5)
    assert there.claims.shared_work() == SharedWork()


def test_a_study_that_was_held_elsewhere_is_told_of_once_it_is_free(
    stores: Callable[..., tuple[Stores, PostgresSession]],
) -> None:
    clock = FakeClock()
    (here, _), (there, _) = stores("A"), stores("B", clock)
    here.claims.take(_ONE)
    with pytest.raises(HeldElsewhereError):
        there.claims.take(_ONE)
    assert there.claims.shared_work() == SharedWork()
    here.claims.done(_ONE)
    clock.advance(5)
    assert there.claims.shared_work() == SharedWork(freed=[_ONE])
    clock.advance(5)
    assert there.claims.shared_work() == SharedWork()


def test_who_lost_the_connection_holds_nothing_and_writes_nothing(
    server: PostgresServer, ledger: str, stores: Callable[..., tuple[Stores, PostgresSession]]
) -> None:
    (here, _), (there, _) = stores("A"), stores("B")
    here.claims.take(_ONE)
    server.sql(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'ddwd A'",
        ledger,
    )
    there.claims.take(_ONE)
    with pytest.raises(PeerDownError):
        here.claims.confirm(_ONE)
    with pytest.raises(HeldElsewhereError, match="not claimed"):
        here.custody.write(_RECORD)
    assert not here.claims.holds(_ONE)
    assert here.claims.connect()  # a new session, and it begins with nothing
    assert not here.claims.holds(_ONE)
    with pytest.raises(HeldElsewhereError):
        here.claims.take(_ONE)
    assert there.custody.read(_ONE) is None


def test_a_record_is_the_same_for_all_and_damage_is_noticed(
    server: PostgresServer, ledger: str, stores: Callable[..., tuple[Stores, PostgresSession]]
) -> None:
    (here, _), (there, _) = stores("A"), stores("B")
    assert not there.custody.has(_ONE)
    with pytest.raises(HeldElsewhereError, match="not claimed"):
        here.custody.write(_RECORD)
    here.claims.take(_ONE)
    here.custody.write(_RECORD)
    here.custody.write(replace(_RECORD, revision=2))
    assert there.custody.has(_ONE)
    assert there.custody.read(_ONE) == replace(_RECORD, revision=2)
    assert list(SharedCustody(ReadDatabase(server.url(ledger))).studies()) == [_ONE]
    server.sql("update custody set body = replace(body, '1.2.3', '1.2.4')", ledger)
    with pytest.raises(StateError, match="checksum"):
        there.custody.read(_ONE)
    here.custody.remove(_ONE)
    assert there.custody.read(_ONE) is None


def test_an_extractor_finds_its_memory_again_and_not_anothers(
    stores: Callable[..., tuple[Stores, PostgresSession]],
) -> None:
    (here, session), (there, _) = stores("A"), stores("B")
    here.ledger.append("cursor", node="storage", seq=7)
    here.ledger.append("paused", by="anna")
    here.ledger.commit()
    there.ledger.append("cursor", node="storage", seq=9)
    there.ledger.commit()
    here.claims.take(_ONE)
    here.custody.write(_RECORD)
    session.close()
    again, _ = stores("A")
    assert again.ledger.state.cursors == {"storage": 7}
    assert again.ledger.state.paused is not None
    assert again.ledger.state.paused.by == "anna"
    assert list(again.ledger.state.closed) == [_ONE]
    third, _ = stores("C")
    assert third.ledger.state.cursors == {"storage": 7}  # what both of them have seen
    assert not third.ledger.state.paused


def test_the_history_tells_of_a_study_whoever_worked_at_it(
    server: PostgresServer, ledger: str, stores: Callable[..., tuple[Stores, PostgresSession]]
) -> None:
    (here, _), (there, _) = stores("A"), stores("B")
    for one, event in ((here, "received"), (there, "published")):
        one.ledger.note(event, f"{event}.", {"DDWD_STUDY": _ONE, "DDWD_STUDY_UID": "1.2"})
        one.ledger.note("started", "another.", {})
        one.ledger.commit()
    history = SharedHistory(ReadDatabase(server.url(ledger)))
    for known in (_ONE, "1.2"):
        found = history.events(study=known)
        assert [(row["event"], row["extractor"]) for row in found] == [("received", "A"), ("published", "B")]
    assert len(history.events()) == 4
    assert [row["event"] for row in history.events(limit=1)] == ["started"]
    last = history.last()
    there.ledger.note("stopped", "it.", {})
    there.ledger.commit()
    assert [row["event"] for row in history.after(last)] == ["stopped"]


def test_what_is_noted_while_the_server_is_away_waits(
    server: PostgresServer, stores: Callable[..., tuple[Stores, PostgresSession]]
) -> None:
    here, _ = stores("A")
    here.ledger.note("received", "it.", {})
    server.stop()
    try:
        for refused in (here.ledger.commit, here.claims.connect, lambda: here.custody.read(_ONE)):
            with pytest.raises(PeerDownError, match=r"does not answer|not connected"):
                refused()
    finally:
        server.start()
    assert here.claims.connect()
    here.ledger.commit()
    assert here.custody.read(_ONE) is None


def test_a_server_that_was_stopped_in_the_middle_is_one_that_is_away(
    server: PostgresServer,
    ledger: str,
    stores: Callable[..., tuple[Stores, PostgresSession]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, _ = stores("A")
    backend = int(server.sql("select pid from pg_stat_activity where application_name = 'ddwd A'", ledger))
    os.kill(backend, signal.SIGSTOP)
    try:
        with monkeypatch.context() as impatient, pytest.raises(PeerDownError, match="no answer within"):
            impatient.setattr(psycopg_driver, "LOST_SECONDS", 1)
            here.custody.read(_ONE)
    finally:
        os.kill(backend, signal.SIGCONT)
    assert here.claims.connect()


def test_tables_of_a_newer_version_are_left_alone(server: PostgresServer, ledger: str) -> None:
    ReadDatabase(server.url(ledger)).open(make=True)
    server.sql("update ddwd_schema set version = version + 1", ledger)
    session = PostgresSession(server.url(ledger))
    with pytest.raises(
        StateError, match=rf"newer ddwd \(schema {VERSION + 1}, this one reads {VERSION} and before\)"
    ):
        session.open(make=True)
    assert not session.is_open


def test_when_one_extractor_is_upgraded_those_of_before_end(
    server: PostgresServer,
    stores: Callable[..., tuple[Stores, PostgresSession]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (older, _), claimed = stores("extractor A"), _ONE
    older.claims.take(claimed)
    with monkeypatch.context() as upgraded:
        upgraded.setattr(postgres, "VERSION", VERSION + 1)
        newer, _ = stores("extractor B")
        server.wait_ended("ddwd extractor A")
        newer.claims.take(claimed)
    with pytest.raises(PeerDownError):
        older.claims.confirm(claimed)
    with pytest.raises(StateError, match="newer ddwd"):
        older.claims.connect()


def test_a_reader_makes_no_tables(server: PostgresServer, ledger: str) -> None:
    with pytest.raises(PeerDownError, match="an extractor creates them"):
        SharedCustody(ReadDatabase(server.url(ledger))).has(_ONE)
    with pytest.raises(StateError, match="an extractor creates them"):
        SharedCustody(ReadDatabase(server.url(ledger))).assert_listable()


def test_of_several_servers_the_one_that_can_be_written_to_is_found(
    server: PostgresServer, ledger: str
) -> None:
    ReadDatabase(server.url(ledger)).open(make=True)
    two = f"postgresql://ddwd@/{ledger}?host={server.folder}/nobody,{server.folder}"
    session = PostgresSession(two)
    session.open()
    assert session.rows("select 1") == [(1,)]
    session.close()
    server.sql(f"alter database {ledger} set default_transaction_read_only = on", "postgres")
    with pytest.raises(PeerDownError, match="read-only"):
        PostgresSession(two).open()


def test_a_server_that_takes_too_long_is_one_that_is_away(
    stores: Callable[..., tuple[Stores, PostgresSession]],
) -> None:
    _, session = stores("A")
    assert session.rows("select setting from pg_settings where name = 'statement_timeout'") == [("10000",)]
    session.rows("set statement_timeout = 1")
    with pytest.raises(PeerDownError, match="statement timeout"):
        session.rows("select pg_sleep(5)")
    assert not session.is_open


def test_the_first_lines_of_a_record_say_the_same_from_the_database_as_from_a_file(
    stores: Callable[..., tuple[Stores, PostgresSession]], tmp_path: Path
) -> None:
    (here, _) = stores("A")
    record = replace(_RECORD, route="trial", retired={"gateway": "2026-11-26T08:00:00Z"})
    here.claims.take(_ONE)
    here.custody.write(record)
    in_files = Custody(tmp_path / "files")
    in_files.write(record)
    found = here.custody.peek(_ONE)
    assert found == in_files.peek(_ONE) == Peek("2026-11-25T08:00:00Z", "P/1.2", "trial", retired=True)
    assert here.custody.peek(_OTHER) is None


def test_records_in_files_are_imported_as_they_are_stored(
    stores: Callable[..., tuple[Stores, PostgresSession]], tmp_path: Path
) -> None:
    """Each byte: the audit trail states the SHA-256 of each record, an older layout included."""
    in_files = Custody(tmp_path / "A")
    in_files.write(_RECORD)
    content = in_files.path(_ONE).read_bytes().replace(b"\n ", b"\n  ")
    in_files.path(_ONE).write_bytes(content)
    (here, _) = stores("A")
    assert here.custody.stored(_ONE) == content
    assert here.custody.read(_ONE) == _RECORD
