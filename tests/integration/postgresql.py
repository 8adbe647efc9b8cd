"""A PostgreSQL server of the tests' own, from the host's package, in a folder that goes with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.patience import HANG_SECONDS

_USER = "postgres"
"""Who runs it where the tests are root, which PostgreSQL refuses to be; the package makes this user."""


class PostgresServer:
    """Answers on a Unix socket in `folder` alone; anyone on it is let in."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ddwd-postgresql-"))
        self._as_user = ["runuser", "-u", _USER, "--"] if os.geteuid() == 0 else []
        if self._as_user:
            shutil.chown(self.folder, _USER)
        self._bin = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        self._run("initdb", "--auth=trust", "--username=ddwd", "--no-sync", "--encoding=UTF8", "--locale=C")
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-k {self.folder} -h '' -c fsync=off"
        self._run("pg_ctl", "start", "--wait", f"--log={self.folder / 'log'}", "-o", options)

    def stop(self) -> None:
        """End it at once: every session is lost."""
        self._run("pg_ctl", "stop", "--wait", "--mode=immediate")

    def remove(self) -> None:
        """End it, with all that it holds."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder)

    def url(self, database: str) -> str:
        """How libpq finds a database of it."""
        return f"postgresql://ddwd@/{database}?host={self.folder}"

    def wait_ended(self, session: str) -> None:
        """Wait until the server has ended the sessions of that name: a closed one holds its locks for a moment longer."""
        statement = f"select count(*) from pg_stat_activity where application_name = '{session}'"  # noqa: S608 - ours
        deadline = time.monotonic() + HANG_SECONDS - 20
        while self.sql(statement, "postgres") != "0":
            assert time.monotonic() < deadline, f"session {session} did not end"
            time.sleep(0.02)

    def sql(self, statement: str, database: str) -> str:
        """What psql answers to a statement, as bare text."""
        command = [
            "psql",
            "--no-psqlrc",
            "-qtA",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            statement,
            self.url(database),
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def _run(self, tool: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._bin / tool), f"--pgdata={self.folder / 'data'}", *arguments]
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder
        )
