"""`ddwd tls init|show|issue`: the certificates of the portal. Only init and issue write, in tls.folder alone."""

from __future__ import annotations

import json
from argparse import RawDescriptionHelpFormatter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ddwd.config import tls
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import StateError
from ddwd.provisioning import certificates
from ddwd.status.certificates import EXPIRES_DAYS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ddwd.config.loader import Config
    from ddwd.provisioning.certificates import CertificateFacts

_EPILOG = """init makes two authorities (ca for the portal's own parts, senders-ca for the modalities) and a
certificate with its key for gateway, storage, scp, extractor and operator; what is there stays,
also what you put there yourself. --renew NAME makes that one anew. Then set tls.* in ddwd.yaml
and: ddwd config check && systemctl restart ddwd

issue NAME makes a certificate and a key for a modality, in tls.folder/issued. The modality also
needs ca.pem, to know the gateway by.

exit status:
  0   done; show: all are good for 30 days and more
  1   openssl failed; show: one has expired or will within 30 days
  64  wrong usage, or a name that cannot be
  65  not for this user
  66  a file that is needed is not there
  78  the configuration cannot be used"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb and its arguments."""
    parser = subparsers.add_parser(
        "tls",
        help="make and show the certificates of encrypted hops",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = actions.add_parser("init", help="make every authority and certificate that is missing")
    init.add_argument(
        "--renew",
        action="append",
        default=[],
        choices=tls.NAMES,
        metavar="NAME",
        help=f"make this one anew: {', '.join(tls.NAMES)}; may be given more than once",
    )
    show = actions.add_parser("show", help="whose certificates there are, signed by whom, good until when")
    issue = actions.add_parser("issue", help="make a certificate and key for a modality")
    issue.add_argument("name", metavar="NAME", help="what the modality is called; letters, digits, _ . and -")
    issue.add_argument("--into", type=Path, metavar="FOLDER", help="put them there instead")
    for action in (init, show, issue):
        action.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    """Do it; the exit status."""
    try:
        if args.action == "show":
            return _show(config, out, as_json=args.json)
        made = (
            certificates.init(config, args.renew)
            if args.action == "init"
            else list(certificates.issue(config, args.name, args.into))
        )
    except PermissionError as error:
        raise StateError(f"{error.filename}: not for this user; run it with sudo") from error
    except OSError as error:
        raise StateError(f"{error.filename}: {error.strerror}") from error
    if args.json:
        out.write(json.dumps([str(path) for path in made]) + "\n")
        return 0
    out.writelines(f"made {path}\n" for path in made)
    out.write(_next_step(args, config, made=bool(made)))
    return 0


def _next_step(args: argparse.Namespace, config: Config, *, made: bool) -> str:
    if args.action == "issue":
        return f"give both to the modality, with {tls.authority(config)}; then remove the key here\n"
    if not made:
        return "nothing is missing; --renew NAME makes one anew\n"
    if config.tls.is_used:
        return "in use after: systemctl restart ddwd\n"
    return "in use once tls.* in ddwd.yaml says so; then: ddwd config check && systemctl restart ddwd\n"


def _show(config: Config, out: TextIO, *, as_json: bool) -> int:
    found = certificates.show(config)
    now = SystemClock().utc()
    soon = [one for one in found if one.expires - now < timedelta(days=EXPIRES_DAYS)]
    used = {str(path) for path in [*tls.certificates_in_use(config), *tls.of_link(config)]}
    if as_json:
        out.write(json.dumps(facts(config, found)) + "\n")
    elif not found:
        out.write(f"no certificates in {config.tls.folder}; ddwd tls init makes them\n")
    else:
        out.writelines(_line(one, (one.expires - now).days, used) for one in found)
    return 1 if soon else 0


def facts(config: Config, found: Sequence[CertificateFacts]) -> list[dict[str, object]]:
    """What is told of each certificate as JSON."""
    used = {str(path) for path in [*tls.certificates_in_use(config), *tls.of_link(config)]}
    return [_facts(one, used) for one in found]


def _facts(one: CertificateFacts, used: set[str]) -> dict[str, object]:
    return {
        "role": one.role,
        "path": str(one.path),
        "subject": one.subject,
        "issuer": one.issuer,
        "expires": stamp(one.expires),
        "names": list(one.names),
        "in_use": str(one.path) in used,
    }


def _line(one: CertificateFacts, days: int, used: set[str]) -> str:
    left = f"{days} days" if days >= 0 else "EXPIRED"
    use = "in use" if str(one.path) in used else "not in use"
    return f"{one.role:<12} until {one.expires:%Y-%m-%d} ({left}), {use}: {one.subject}; by {one.issuer}; {one.path}\n"
