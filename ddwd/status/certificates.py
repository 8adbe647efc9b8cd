"""Certificates in use: which files hold them, and which expire soon. Used by the doctor, by `ddwd tls` and for alerts."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddwd.config import tls
from ddwd.core.errors import ConfigError, ConfigProblem
from ddwd.core.printable import many
from ddwd.core.problem import problem
from ddwd.core.problem_codes import Code
from ddwd.provisioning import orthanc_config
from ddwd.status.check_context import NOT_PERMITTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.config.schema import Config
    from ddwd.core.problem import Problem
    from ddwd.provisioning.credentials import Credentials
    from ddwd.status.check_context import CheckContext

EXPIRES_DAYS = 30
_KEYS = "SslCertificate", "DicomTlsCertificate", "HttpsCACertificates", "DicomTlsTrustedCertificates"


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
        for path in certificate_files(context.config, context.login):
            yield from _checked(path, context)


def _checked(path: Path, context: CheckContext) -> Iterator[Problem]:
    try:
        left = context.expiry(path) - context.clock.utc()
    except ConfigError:
        if path.exists() and not os.access(path, os.R_OK):
            yield NOT_PERMITTED
        else:
            remedy = (
                "put a certificate in PEM form there, readable for group ddwd; then systemctl restart ddwd"
            )
            yield problem(
                Code.CERTIFICATE_UNREADABLE, f"{path} is no certificate that can be read", remedy, str(path)
            )
        return
    remedy = "put a new one there, then systemctl restart ddwd"
    if left <= timedelta(0):
        yield problem(Code.CERTIFICATE_EXPIRED, f"{path} has expired", remedy, str(path))
    elif left < timedelta(days=EXPIRES_DAYS):
        cause = f"{path} expires in {many(left.days, 'day', 'days')}"
        yield problem(Code.CERTIFICATE_EXPIRES, cause, remedy, str(path))
