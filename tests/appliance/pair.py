"""Two booted machines on one LAN, and a PostgreSQL server on a third address of it, for the tests of more than one machine."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.appliance.conftest import SETTINGS, Portal
from tests.machine import Machine
from tests.machine.network import MODALITY_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SERVER = """
mount --bind "$1" "$0/srv" && mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" \
setpriv --reuid=postgres --regid=postgres --clear-groups /srv/run "$2"
"""
_RUN = """#!/bin/sh
cd /srv
bin=$(echo /usr/lib/postgresql/*/bin)
printf %s "$1" > password
"$bin/initdb" -D data -U postgres -A scram-sha-256 --pwfile=password > log 2>&1 || exit 1
echo "host all all 10.99.0.0/24 scram-sha-256" >> data/pg_hba.conf
exec "$bin/postgres" -D data -c listen_addresses='*' -c unix_socket_directories='' >> log 2>&1
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both machines with the package installed: `one` at 10.99.0.1, `two` at 10.99.0.3; the modality at 10.99.0.2."""

    one: Portal
    two: Portal

    def settle(
        self, portal: Portal, lines: Mapping[str, str], units: tuple[str, ...], *, limit: float = 90
    ) -> None:
        """Write settings (`key` or `section.key` -> value) over the defaults, restart, and wait for these units."""
        text = portal.machine.path(SETTINGS).read_text(encoding="utf-8")
        for key, value in lines.items():
            text = with_setting(text, key, value)
        portal.configure(text)
        portal.machine.wait_for(
            lambda: portal.machine.is_active(*units), limit=limit, what=f"not all of {units} active"
        )

    def bring(self, folder: str) -> None:
        """Bring what `ddwd link` made on the first machine to /etc/ddwd of the second, as docs/several.md says."""
        self.two.machine.copy_in(self.one.machine.path(folder), "/root/")
        self.two.machine.run(f"cp -r {folder}/. /etc/ddwd/ && rm -r {folder}")
        self.one.machine.run(["rm", "-r", folder])


def with_setting(text: str, key: str, value: str) -> str:
    """The YAML with that value; every key stands in the packaged file."""
    section, _, name = key.rpartition(".")
    before, head, rest = text.partition(f"\n{section}:\n") if section else ("", "", text)
    indent = "  " if section else ""
    changed, count = re.subn(rf"(?m)^{indent}{name}:.*$", f"{indent}{name}: {value}", rest, count=1)
    assert count == 1, key
    return before + head + changed


@contextmanager
def pair(deb: Path, shares: Mapping[str, Path] | None = None) -> Iterator[Pair]:
    """Boot both and install the package in each; `shares` stand in both."""
    with ExitStack() as stack:
        first = stack.enter_context(Machine(shares=shares))
        second = stack.enter_context(Machine(shares=shares, beside=first))
        one, two = Portal(first, deb), Portal(second, deb)
        one.install()
        two.machine.install(deb)
        yield Pair(one, two)


class Database:
    """A PostgreSQL server beside both machines, at the modality's address; it lives until the first machine ends."""

    address = MODALITY_ADDRESS

    def __init__(self, pair: Pair, password: str) -> None:
        self._machine = pair.one.machine
        self._password = password
        image = self._machine.image
        self.folder = self._machine.folder / "postgres"
        self.folder.mkdir()
        program = self.folder / "run"
        program.write_text(_RUN, encoding="ascii")
        program.chmod(0o755)
        known = dict(
            line.split(":", 3)[0:3:2] for line in (image / "etc/passwd").read_text("ascii").splitlines()
        )
        shutil.chown(self.folder, int(known["postgres"]), int(known["postgres"]))
        network = self._machine.modality.netns_argv()
        command = [
            *network,
            "unshare",
            "--mount",
            "sh",
            "-c",
            _SERVER,
            str(image),
            str(self.folder),
            password,
        ]
        self._machine.modality.start_on_host(command)
        self._machine.wait_for(
            lambda: self.ask("SELECT 1") == "1", limit=60, what="PostgreSQL does not answer"
        )

    def ask(self, statement: str, name: str = "postgres") -> str:
        """What it answers to the first machine; nothing where it does not."""
        argv = [
            "psql",
            "-X",
            "-A",
            "-t",
            "-q",
            "-w",
            "-h",
            self.address,
            "-U",
            "postgres",
            "-d",
            name,
            "-c",
            statement,
        ]
        return self._machine.run(argv, check=False, env={"PGPASSWORD": self._password}).stdout.strip()

    def make(self, role: str, name: str) -> None:
        """A role and a database of its own, with the server's password."""
        self.ask(f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{self._password}'")
        self.ask(f'CREATE DATABASE "{name}" OWNER "{role}" ENCODING \'UTF8\' TEMPLATE template0')
