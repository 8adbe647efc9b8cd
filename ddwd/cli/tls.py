"""`ddwd tls init|show|issue`: make and show the certificates of the portal. Only init and issue write, in tls.folder or --into."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from ddwd.cli.command import LIST, Argument, Command, VerbResult, file_errors
from ddwd.config import tls
from ddwd.config.schema import Config
from ddwd.core.clock import SystemClock, stamp
from ddwd.provisioning import certificates
from ddwd.provisioning.certificates import CertificateFacts
from ddwd.status.certificates import EXPIRES_DAYS

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


def _init(args: Namespace, config: Config) -> VerbResult:
    with file_errors():
        made = certificates.init(config, args.renew)
    if not made:
        return VerbResult([], ["nothing is missing; --renew NAME makes one anew"])
    if config.tls.is_used:
        return _made(made, "in use after: systemctl restart ddwd")
    return _made(
        made, "in use once tls.* in ddwd.yaml says so; then: ddwd config check && systemctl restart ddwd"
    )


def _issue(args: Namespace, config: Config) -> VerbResult:
    with file_errors():
        made = certificates.issue(config, args.name, args.into)
    return _made(made, f"give both to the modality, with {tls.authority(config)}; then remove the key here")


def _made(paths: Sequence[Path], next_step: str) -> VerbResult:
    return VerbResult([str(path) for path in paths], [*(f"made {path}" for path in paths), next_step])


def _show(_args: Namespace, config: Config) -> VerbResult:
    with file_errors():
        found = certificates.show(config)
        now = SystemClock().utc()
        used = {str(path) for path in [*tls.certificates_in_use(config), *tls.of_link(config)]}
        lines = [_line(one, (one.expires - now).days, used) for one in found]
        soon = any(one.expires - now < timedelta(days=EXPIRES_DAYS) for one in found)
        none = f"no certificates in {config.tls.folder}; ddwd tls init makes them"
        return VerbResult(facts(config, found), lines or [none], int(soon))


def facts(config: Config, found: Sequence[CertificateFacts]) -> list[dict[str, object]]:
    """Return the facts of a certificate for --json."""
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
    return f"{one.role:<12} until {one.expires:%Y-%m-%d} ({left}), {use}: {one.subject}; by {one.issuer}; {one.path}"


_RENEW = Argument(
    "--renew",
    action="append",
    default=[],
    choices=tls.NAMES,
    metavar="NAME",
    help=f"make this one anew: {', '.join(tls.NAMES)}; may be given more than once",
)
_NAME = Argument("name", metavar="NAME", help="what the modality is called; letters, digits, _ . and -")
_INTO = Argument("--into", type=Path, metavar="FOLDER", help="put them there instead")
COMMAND = Command(
    "tls",
    "make and show the certificates of encrypted hops",
    epilog=_EPILOG,
    actions=(
        Command(
            "init", "make every authority and certificate that is missing", _init, (_RENEW,), json_help=LIST
        ),
        Command(
            "show", "whose certificates there are, signed by whom, good until when", _show, json_help=LIST
        ),
        Command("issue", "make a certificate and key for a modality", _issue, (_NAME, _INTO), json_help=LIST),
    ),
)
