"""TLS of the portal: which part has which certificate and key, and the contexts of the portal's own DICOM parts.

Profile: BCP 195 as PS3.15 section B.9 has it: TLS 1.2 or later, forward secrecy and AEAD ciphers only, a certificate on both
sides. A DICOM node is authenticated by its certificate's authority, never by a host name (PS3.15 section B.1). A service reads its
key from its credential (LoadCredential=); without one, as on the command line, the key is read from the folder of the settings.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from ddwd.core.errors import ConfigError, ConfigProblem

if TYPE_CHECKING:
    from ddwd.config.schema import Config

Name = Literal["gateway", "storage", "scp", "extractor", "operator"]
NAMES: tuple[Name, ...] = get_args(Name)
CA, SENDERS_CA = "ca", "senders-ca"
LINK_CA, LINK, LINK_KEY = "ca.pem", "machine.pem", "machine.key"
"""Files of the link between machines, in link.folder."""
CREDENTIAL = "tls.key"
"""Name of a service's key among its credentials."""

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"


class Files(NamedTuple):
    """A certificate, with those between it and its authority, and its key; both in PEM form."""

    certificate: Path
    key: Path


def files(config: Config, name: Name) -> Files:
    """Return the operator's files of that certificate and its key."""
    tls, folder = config.tls, config.tls.folder
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    if name == "gateway":
        return Files(tls.gateway_certificate or certificate, tls.gateway_key or key)
    return Files(certificate, key)


def authority(config: Config) -> Path:
    """Return the authority of the portal's own parts."""
    return config.tls.folder / f"{CA}.pem"


def senders_authority(config: Config) -> Path:
    """Return the authorities of the modalities."""
    return config.tls.senders_ca or config.tls.folder / f"{SENDERS_CA}.pem"


def in_use(config: Config) -> tuple[Name, ...]:
    """Return the parts that need a certificate with these settings."""
    tls = config.tls
    used: dict[Name, bool] = {
        "gateway": tls.gateway != "off" or tls.dicomweb or config.web.open or sends_elsewhere(config),
        "storage": tls.dicomweb or tls.storage or tls.scp or config.web.open,
        "scp": tls.scp,
        "extractor": tls.storage or tls.scp,
        "operator": tls.gateway != "off" or tls.storage or tls.scp,
    }
    return tuple(name for name in NAMES if used[name])


def of_link(config: Config) -> list[Path]:
    """Return the authority of the link between machines and this machine's certificate; none if this is the only machine."""
    return [config.link.folder / name for name in (LINK_CA, LINK)] if config.is_linked else []


def sends_elsewhere(config: Config) -> bool:
    """Return whether the gateway sends to a destination by DIMSE and TLS."""
    return any(destination.tls for destination in config.destinations)


def certificates_in_use(config: Config) -> list[Path]:
    """Return every file of certificates that these settings need."""
    destinations = config.destinations
    own = config.tls.is_used or any(each.tls and each.ca is None for each in destinations)
    found = [authority(config)] if own else []
    found += [senders_authority(config)] if config.tls.gateway != "off" else []
    found += [each.ca for each in destinations if each.ca is not None]
    return found + [files(config, name).certificate for name in in_use(config)]


def to_gateway(config: Config) -> ssl.SSLContext | None:
    """Return the context for a C-STORE to the gateway's DICOM port from this machine; None if that port is plain. Raises ConfigError."""
    return with_operator(config) if config.tls.gateway == "only" else None


def with_operator(config: Config) -> ssl.SSLContext:
    """Return the context for the operator's own associations by TLS. Raises ConfigError.

    The gateway's certificate may be of an authority that is unknown here, so the certificate itself is trusted.
    """
    return _client(config, "operator", (authority(config), files(config, "gateway").certificate))


def to_storage(config: Config, name: Name) -> ssl.SSLContext | None:
    """Return the context for an association with ORTHANC2; None if it is plain. Raises ConfigError."""
    return _client(config, name, (authority(config),)) if config.tls.storage else None


def to_scp(config: Config, name: Name) -> ssl.SSLContext | None:
    """Return the context for an association with the receiver; None if it is plain. Raises ConfigError."""
    return _client(config, name, (authority(config),)) if config.tls.scp else None


def of_scp(config: Config) -> ssl.SSLContext | None:
    """Return the context of the receiver's listener; a peer needs a certificate of the portal's authority. Raises ConfigError."""
    if not config.tls.scp:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _with_files(context, config, "scp", (authority(config),))


def of_gateway(config: Config) -> ssl.SSLContext | None:
    """Return the context for modalities, which need a certificate of their authority or of the portal's; None without TLS. Raises ConfigError."""
    if config.tls.gateway == "off":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _with_files(context, config, "gateway", (senders_authority(config), authority(config)))


def _client(config: Config, name: Name, trusted: tuple[Path, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return _with_files(context, config, name, trusted)


def _with_files(
    context: ssl.SSLContext, config: Config, name: Name, trusted: tuple[Path, ...]
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    certificate, key = files(config, name).certificate, own_key(config, name)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is an OSError
        raise _unusable(certificate, key, error) from None
    for path in trusted:
        try:
            context.load_verify_locations(path)
        except OSError as error:
            raise _unusable(path, path, error) from None
    return context


def own_key(config: Config, name: Name) -> Path:
    """Return the key file that this process can read: its unit's credential, or the operator's file."""
    credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / CREDENTIAL
    return credential if credential.exists() else files(config, name).key


def _unusable(certificate: Path, key: Path, error: OSError) -> ConfigError:
    """Return an error of one line that names the file; OpenSSL does not say which of the two failed."""
    if isinstance(error, PermissionError):
        what, instead = "cannot be read by this user", "run it with sudo, or as a member of group ddwd"
    elif isinstance(error, FileNotFoundError):
        what, instead = "does not exist", "ddwd tls init makes what is missing"
    else:
        reason = getattr(error, "reason", None) or error.strerror or "unreadable"
        what, instead = f"cannot be used ({reason})", "put a valid PEM file there, then: ddwd tls show"
    path = next((file for file in (certificate, key) if not os.access(file, os.R_OK)), certificate)
    return ConfigError([ConfigProblem(str(path), None, "tls", what, instead)])
