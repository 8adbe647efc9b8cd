"""Certificates of the portal for tests, made once in a process by `ddwd tls` itself, with shorter keys: a dozen of the real ones take ten seconds."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

from ddwd.config.schema import Config
from ddwd.provisioning import certificates


@cache
def folder() -> Path:
    """A folder as `ddwd tls init` leaves it, with one issued to a modality, CT1; and one of a stranger's authority beside it."""
    made = Path(tempfile.mkdtemp(prefix="ddwd-tls-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    with patch.object(certificates, "KEY", "rsa:2048"):
        _make(made)
    return made


def _make(made: Path) -> None:
    for name in ("portal", "stranger"):
        config = with_tls(Config(), made / name)
        certificates.init(config)
        certificates.issue(config, "CT1")


def own() -> Path:
    """The portal's."""
    return folder() / "portal"


def strangers() -> Path:
    """Made the same way, elsewhere: nobody here trusts it."""
    return folder() / "stranger"


def with_tls(config: Config, place: Path) -> Config:
    """The settings with their certificates in that folder; no hop is encrypted yet."""
    return replace(config, tls=replace(config.tls, folder=place))


def ending(place: Path, days: int) -> Path:
    """A certificate that ends in so many days (from now, rounded by openssl to whole days), with the key it was made with."""
    key, certificate = place / "short.key", place / "short.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-noenc",
        "-subj",
        "/CN=short",
        "-days",
        str(days),
    ]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate
