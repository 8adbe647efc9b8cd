"""Certificates in use: which files hold them, and which expire soon. Used by the doctor, by `ddwd tls` and for alerts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddwd.config import tls
from ddwd.core.errors import ConfigError, ConfigProblem
from ddwd.core.printable import many
from ddwd.core.problem import problem
from ddwd.core.problem_codes import Code
from ddwd.provisioning import orthanc_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ddwd.config.schema import Config
    from ddwd.core.problem import Problem
    from ddwd.provisioning.credentials import Credentials
    from ddwd.status.check_context import CheckContext

EXPIRES_DAYS = 30
_KEYS = "SslCertificate", "DicomTlsCertificate", "HttpsCACertificates", "DicomTlsTrustedCertificates"


@dataclass(frozen=True, slots=True)
class Expiring:
    """A certificate file that has expired or expires within EXPIRES_DAYS, and the remedy."""

    path: Path
    left: timedelta
    remedy: str = "put a new one there, then systemctl restart ddwd"

    @property
    def has_expired(self) -> bool:
        return self.left <= timedelta(0)

    @property
    def text(self) -> str:
        if self.has_expired:
            return f"{self.path} has expired"
        return f"{self.path} expires in {many(self.left.days, 'day', 'days')}"

    @property
    def problem(self) -> Problem:
        """The problem that it is, in every view."""
        code = Code.CERTIFICATE_EXPIRED if self.has_expired else Code.CERTIFICATE_EXPIRES
        return problem(code, self.text, self.remedy, str(self.path))


def expiring(
    config: Config, login: Credentials, now: datetime, expiry: Callable[[Path], datetime]
) -> Iterator[Expiring]:
    """Yield the certificates in use that have expired or will soon. Raises ConfigError for one that cannot be read."""
    for path in certificate_files(config, login):
        left = expiry(path) - now
        if left < timedelta(days=EXPIRES_DAYS):
            yield Expiring(path, left)


def certificate_files(config: Config, login: Credentials) -> Iterator[Path]:
    """Yield every file of the configuration that holds certificates."""
    found = dict.fromkeys([*tls.certificates_in_use(config), *tls.of_link(config)])
    for node in config.own_nodes:
        tree = orthanc_config.merged(config, login, node.name)[0].tree
        found |= dict.fromkeys(Path(str(tree[key])) for key in _KEYS if tree.get(key))
    yield from found
    yield from (path for path in (config.audit.ca, config.audit.certificate) if path is not None)


def expiry_of(path: Path) -> datetime:
    """Return when the first certificate of a PEM file expires. Raises ConfigError if there is none."""
    try:
        # the interpreter's own reader: it takes a file, and returns the fields of X.509 as a dict
        facts: dict[str, Any] = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]
    except (OSError, ssl.SSLError, ValueError) as error:
        what, instead = "is no certificate that can be read", "put one in PEM form there"
        raise ConfigError([ConfigProblem(str(path), None, "certificate", what, instead)]) from error
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(facts["notAfter"]), UTC)


def certificates(context: CheckContext) -> Iterator[Problem]:
    """Check the certificates of the Orthancs and of the audit relay."""
    if context.login is None or not list(certificate_files(context.config, context.login)):
        yield problem(Code.NO_CERTIFICATE, "none in use: DICOM and the web pages are not encrypted")
    else:
        for file in expiring(context.config, context.login, context.clock.utc(), context.expiry):
            yield file.problem
