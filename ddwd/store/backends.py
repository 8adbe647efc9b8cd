"""Choose the backend of ledger, custody records and claims: files or, with `ledger.shared`, the database. Only this module chooses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.clock import Clock
from ddwd.store.claims import Claims, SharedClaims
from ddwd.store.custody import Custody
from ddwd.store.ledger import Ledger, LedgerPort
from ddwd.store.postgres import PostgresSession, ReadDatabase
from ddwd.store.postgres_store import SharedCustody, SharedHistory, SharedLedger, import_records
from ddwd.store.pre_upgrade_copy import copy_before_upgrade


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores that the extractor writes to."""

    ledger: LedgerPort
    custody: Custody
    claims: Claims


def stores_of(config: Config, clock: Clock) -> Stores:
    """Return the stores of the extractor. Raises StateError, but no error if the database is unreachable: `connect` waits for it."""
    settings, paths = config.ledger, Paths(config)
    if settings.shared is None:
        copy_before_upgrade(paths)
        ledger = Ledger.open(
            paths.ledger, clock, segment_bytes=settings.segment_bytes, keep_days=settings.keep_days
        )
        return Stores(ledger, Custody(paths.custody), Claims())
    name = config.scp.aet
    database = PostgresSession(settings.shared, settings.password_file, f"extractor {name}")
    return shared_stores(database, name, clock, settings.keep_days, paths.custody)


def shared_stores(database: PostgresSession, name: str, clock: Clock, keep_days: int, files: Path) -> Stores:
    """Return the stores of the extractor `name`, in one database session; `files` is the folder of its earlier records, if any."""
    ledger = SharedLedger(database, name, clock, keep_days)

    def on_session() -> None:
        import_records(files, database, name, clock)
        ledger.load()

    claims = SharedClaims(database, name, clock, on_session)
    return Stores(ledger, SharedCustody(database, name, claims.holds), claims)


def custody_of(config: Config) -> Custody:
    """Return the custody records for readers. Raises PeerDownError if the database is away."""
    database = _reader(config)
    return Custody(Paths(config).custody) if database is None else SharedCustody(database)


def history_of(config: Config) -> SharedHistory | None:
    """Return the events of the shared ledger; None if the ledger is in files."""
    database = _reader(config)
    return None if database is None else SharedHistory(database)


def _reader(config: Config) -> ReadDatabase | None:
    settings = config.ledger
    return None if settings.shared is None else ReadDatabase(settings.shared, settings.password_file)
