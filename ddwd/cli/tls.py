"""`ddwd tls init|show|issue`: make and show the certificates of the portal. `ddwd link FOLDER`: make what another machine of it needs.

Only init, issue and link write: in tls.folder or --into, and in FOLDER and link.folder.
"""

import os
import socket
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from ddwd.cli.command import Argument, Command, Group, VerbResult, file_errors, prints
from ddwd.config import tls
from ddwd.config.schema import ROLES, Config, Role
from ddwd.core import safe_folder
from ddwd.core.answers import Key
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import InvalidValueError
from ddwd.provisioning import certificates, credentials, machine_link
from ddwd.provisioning.certificates import CertificateFacts
from ddwd.status.certificates import EXPIRES_DAYS


class _Certificate(TypedDict):
    role: str
    path: str
    subject: str
    issuer: str
    expires: str
    names: list[str]
    in_use: bool


def _init(args: Namespace, config: Config) -> VerbResult:
    with file_errors():
        made = certificates.init(config, args.renew)
    if not made:
        return VerbResult({"made": []}, ["no certificate is missing; --renew NAME makes one again"])
    restart = "systemctl restart ddwd"
    if config.tls.is_used:
        return _made(made, f"in use after: {restart}")
    return _made(made, f"in use once tls.* is set in ddwd.yaml; then: ddwd config check && {restart}")


def _issue(args: Namespace, config: Config) -> VerbResult:
    with file_errors():
        made = certificates.issue(config, args.name, args.into)
    return _made(made, f"give both to the modality, with {tls.authority(config)}; then remove the key here")


def _made(paths: Sequence[Path], next_step: str) -> VerbResult:
    return VerbResult(
        {"made": [str(path) for path in paths]}, [*(f"made {path}" for path in paths), next_step]
    )


def _show(_args: Namespace, config: Config) -> VerbResult:
    with file_errors():
        found = certificates.show(config)
    rows, now = facts(config, found), SystemClock().utc()
    days = [(one.expires - now).days for one in found]
    none = f"no certificates in {config.tls.folder}; ddwd tls init makes them"
    return VerbResult(
        {"certificates": rows},
        [*map(_line, rows, days)] or [none],
        int(any(left < EXPIRES_DAYS for left in days)),
    )


def facts(config: Config, found: Sequence[CertificateFacts]) -> list[_Certificate]:
    """Return the facts of each certificate for --json."""
    in_use = {str(path) for path in [*tls.certificates_in_use(config), *tls.of_link(config)]}
    return [
        {
            "role": one.role,
            "path": str(one.path),
            "subject": one.subject,
            "issuer": one.issuer,
            "expires": stamp(one.expires),
            "names": list(one.names),
            "in_use": str(one.path) in in_use,
        }
        for one in found
    ]


def _line(row: _Certificate, days: int) -> str:
    left = f"{days} days" if days >= 0 else "EXPIRED"
    use = "in use" if row["in_use"] else "not in use"
    names = f"{row['subject']}; by {row['issuer']}; {row['path']}"
    return f"{row['role']:<12} until {row['expires'][:10]} ({left}), {use}: {names}"


_MADE = Key("made", list[str], "the files that were made")

TLS = Group(
    "tls",
    "make and show the certificates of encrypted hops",
    (
        Command(
            "init",
            "make every authority and certificate that is missing",
            prints(_init),
            (
                Argument(
                    "--renew",
                    action="append",
                    default=[],
                    choices=tls.NAMES,
                    metavar="NAME",
                    help=f"make this one again: {', '.join(tls.NAMES)}; may be given more than once",
                ),
            ),
            answer=(_MADE,),
        ),
        Command(
            "show",
            "show each certificate, who signed it, and when it expires",
            prints(_show),
            answer=(Key("certificates", list[_Certificate], "each certificate"),),
        ),
        Command(
            "issue",
            "make a certificate and key for a modality",
            prints(_issue),
            (
                Argument("name", metavar="NAME", help="name of the modality: letters, digits, _ . and -"),
                Argument("--into", type=Path, metavar="FOLDER", help="write them to this folder instead"),
            ),
            answer=(_MADE,),
        ),
    ),
    about="""init makes two authorities (ca for the portal's own parts, senders-ca for the modalities) and a
certificate with its key for gateway, storage, scp, extractor and operator. It keeps every file that
exists, your own files too. --renew NAME makes that one again. Then set tls.* in ddwd.yaml and run:
ddwd config check && systemctl restart ddwd

issue NAME makes a certificate and a key for a modality, in tls.folder/issued. The modality also needs
ca.pem, to verify the gateway.""",
    exits={
        0: "done; show: all are valid for 30 days or more",
        1: "openssl failed; show: one has expired or expires within 30 days",
        64: "wrong usage, or an invalid name",
        65: "not for this user",
        66: "a file that is needed does not exist",
    },
)


# --- link -------------------------------------------------------------------------------------------------------------


def _link(args: Namespace, config: Config) -> VerbResult:
    names = args.roles.split(",")
    roles = [role for role in ROLES if role in names]
    if set(names) != set(roles):
        raise InvalidValueError(
            f"{args.roles!r} is not a list of roles: write some of {', '.join(ROLES)}, separated by commas"
        )
    with file_errors():
        made = _make(args.folder, config, roles)
    return _made(
        made, f"copy what is in {args.folder} to /etc/ddwd of the other machine, then remove it here"
    )


def _make(folder: Path, config: Config, roles: list[Role]) -> list[Path]:
    passwords = credentials.read(config.credentials_file)
    here = socket.gethostname()
    # fails on a machine without the authority's key, before the folder is made
    made = _certificate(config, config.link.folder, ROLES, f"machine {here}")
    with safe_folder.reached(folder) as (name, parent):
        os.mkdir(name, 0o700, dir_fd=parent)
    made += _certificate(config, folder / "link", roles, f"machine of {', '.join(roles)}, by {here}")
    target = folder / config.credentials_file.name
    credentials.write(target, credentials.shared(passwords, roles))
    return [*made, target]


def _certificate(config: Config, folder: Path, roles: Sequence[Role], common: str) -> list[Path]:
    return certificates.link(config, folder, [machine_link.subject(role) for role in roles], common)


LINK = Command(
    "link",
    "make what another machine of the portal needs",
    prints(_link),
    (
        Argument("folder", type=Path, metavar="FOLDER", help="a new folder for the files"),
        Argument(
            "--roles",
            required=True,
            metavar="ROLES",
            help=f"the roles of the other machine: some of {', '.join(ROLES)}, separated by commas",
        ),
    ),
    about="""Run it on the machine that you trust most. FOLDER gets a certificate with the roles of the other
machine, and credentials.json with the passwords that these roles need, and no others. Copy its files
to /etc/ddwd of the other machine, remove it here, and restart ddwd on both:

  ddwd link --roles gateway FOLDER
  scp -r FOLDER/. root@OTHER:/etc/ddwd/

The authority of the link stays on this machine (link.folder), and this machine gets a certificate
too. If you run it again, both are valid for another 825 days.""",
    exits={
        0: "FOLDER holds what the other machine needs",
        1: "openssl failed",
        65: "not for this user, or FOLDER exists already",
        66: "the key of the link's authority is on another machine: run it there",
        78: "the configuration cannot be used, or there are no passwords yet: start ddwd once",
    },
    answer=(_MADE,),
)
