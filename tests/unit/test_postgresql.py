"""Every view of the portal says whether PostgreSQL takes connections: on its socket, or at the host of the settings."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.config.schema import Config, DatabaseConfig
from ddwd.monitoring.alerts import conditions
from ddwd.status.postgresql import problem
from tests.unit.test_flow import report

if TYPE_CHECKING:
    from pathlib import Path

LOCAL = Config()


def _with(**database: Any) -> Config:
    return replace(LOCAL, database=replace(DatabaseConfig(), **database))


def test_a_server_that_listens_on_its_socket_is_well_and_one_that_stopped_is_not(tmp_path: Path) -> None:
    place = f"{tmp_path}/.s.PGSQL.5432"
    assert problem(LOCAL, tmp_path) == f"PostgreSQL does not answer on {place} (No such file or directory)"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen()
        assert problem(LOCAL, tmp_path) == ""
    # a killed server leaves its socket
    assert problem(LOCAL, tmp_path) == f"PostgreSQL does not answer on {place} (Connection refused)"


def test_a_server_of_the_settings_is_asked_at_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        elsewhere = _with(host="127.0.0.1", port=port)
        assert problem(elsewhere) == ""
    assert problem(elsewhere) == f"PostgreSQL does not answer on 127.0.0.1:{port} (Connection refused)"


def test_a_server_that_hangs_holds_up_no_view(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/.s.PGSQL.5432")
        server.listen(0)
        waiting = []
        for _ in range(4):  # its queue is full, and nobody takes anything from it
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(f"{tmp_path}/.s.PGSQL.5432")
            waiting.append(client)
        assert "PostgreSQL does not answer" in problem(LOCAL, tmp_path)
        for client in waiting:
            client.close()


@pytest.mark.parametrize(
    "config",
    [
        _with(engine="sqlite"),
        _with(url="postgresql://ddwd@db1,db2/index"),
        replace(LOCAL, roles=("extractor",)),
    ],
)
def test_who_has_no_index_there_or_several_servers_is_told_nothing(config: Config, tmp_path: Path) -> None:
    assert problem(config, tmp_path) == ""


def test_it_is_alerted_by_a_condition_of_its_own() -> None:
    stopped = replace(report(), database="PostgreSQL does not answer on /run/x (refused)")
    found = conditions(stopped.problems)
    assert found["postgresql-down"].text == (
        "PostgreSQL does not answer on /run/x (refused); do: systemctl start postgresql"
    )
