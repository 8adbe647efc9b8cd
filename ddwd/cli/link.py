"""`ddwd link FOLDER`: make a folder with what another machine of the portal needs. Writes that folder and link.folder."""

from __future__ import annotations

import socket
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ddwd.cli.command import LIST, Argument, Command, VerbResult, file_errors
from ddwd.config.schema import ROLES, Config, Role
from ddwd.core.errors import InvalidValueError
from ddwd.provisioning import certificates, credentials, machine_link

_EPILOG = """On one of the machines, the one that you trust most: FOLDER gets a certificate that says which
roles the other machine has, and credentials.json with the passwords that these roles need, and no
other. Copy what is in it to /etc/ddwd over there, remove it here, and restart ddwd on both:

  ddwd link --roles gateway FOLDER
  scp -r FOLDER/. root@OTHER:/etc/ddwd/

The authority of the link stays on this machine (link.folder), and this machine gets a certificate
too. Done again, both are good for another 825 days.

exit status:
  0   FOLDER holds what the other machine needs
  1   openssl failed
  64  wrong usage
  65  not for this user, or FOLDER is there already
  66  the key of the link's authority is on another machine: ask there
  78  the configuration cannot be used, or there are no passwords yet: start ddwd once"""


def _link(args: Namespace, config: Config) -> VerbResult:
    roles = [role for role in ROLES if role in args.roles.split(",")]
    if set(args.roles.split(",")) != set(roles):
        raise InvalidValueError(
            f"{args.roles!r} is no list of roles: write some of {', '.join(ROLES)}, with commas"
        )
    with file_errors():
        made = [str(path) for path in _make(args.folder, config, roles)]
    next_step = f"copy what is in {args.folder} to /etc/ddwd of the other machine, then remove it here"
    return VerbResult(made, [*(f"made {path}" for path in made), next_step])


def _make(folder: Path, config: Config, roles: list[Role]) -> list[Path]:
    passwords = credentials.read(config.credentials_file)
    name = socket.gethostname()
    made = _certificate(
        config, config.link.folder, ROLES, f"machine {name}"
    )  # refused where the authority's key is not
    folder.mkdir(mode=0o700)
    made += _certificate(config, folder / "link", roles, f"machine of {', '.join(roles)}, by {name}")
    target = folder / config.credentials_file.name
    credentials.write(target, credentials.shared(passwords, roles))
    return [*made, target]


def _certificate(config: Config, folder: Path, roles: Sequence[Role], common: str) -> list[Path]:
    return certificates.link(config, folder, [machine_link.subject(role) for role in roles], common)


COMMAND = Command(
    "link",
    "make what another machine of the portal needs",
    _link,
    (
        Argument("folder", type=Path, metavar="FOLDER", help="where to put it; a new folder"),
        Argument(
            "--roles",
            required=True,
            metavar="ROLES",
            help=f"what runs on the other machine: some of {', '.join(ROLES)}, with commas",
        ),
    ),
    epilog=_EPILOG,
    json_help=LIST,
)
