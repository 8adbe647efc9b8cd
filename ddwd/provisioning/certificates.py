"""Make and read the portal's certificates with openssl(1). Only `ddwd tls` and `ddwd link` write any.

Two authorities in the folder `tls.folder`: `ca` for the portal's own parts, `senders-ca` for the modalities, so that a key
stolen from a modality gives no access to an inner hop. RSA of 3072 bits, because Debian's Orthanc offers TLS 1.2 with RSA only.
Only root can read the keys; group ddwd can read the operator's key too, since `ddwd` commands run in that group.
"""

from __future__ import annotations

import grp
import os
import re
import socket
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.config import tls
from ddwd.core import durable, safe_folder
from ddwd.core.errors import InvalidValueError, NotFoundError
from ddwd.provisioning import openssl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddwd.config.schema import Config

AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 825
ISSUED = "issued"
"""Sub-folder for certificates that were made for modalities."""
KEY = "rsa:3072"
"""Kind of every key, as openssl req -newkey names it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CONFIG = """\
[req]
distinguished_name = name
prompt = no
[name]
O = D-DW-D Portal
CN = {common}
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[node]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What `ddwd tls show` prints of one certificate."""

    role: str
    path: Path
    subject: str
    issuer: str
    expires: datetime
    names: tuple[str, ...]


def init(config: Config, renew: Sequence[str] = ()) -> list[Path]:
    """Make the authorities and certificates that are missing, renew those named in `renew`; return the files written.

    Raises DdwdError if openssl fails and OSError if the folder cannot be written.
    """
    folder = config.tls.folder
    durable.make_dirs(folder, 0o755)
    made = []
    authorities = {tls.CA: "portal authority", tls.SENDERS_CA: "authority of the senders"}
    if config.tls.senders_ca is not None:
        del authorities[tls.SENDERS_CA]
    for authority, common in authorities.items():
        files = tls.Files(folder / f"{authority}.pem", folder / f"{authority}.key")
        if not files.certificate.exists():
            _make(f"{common} of {socket.gethostname()}", files)
            made.append(files.certificate)
    for name in tls.NAMES:
        files = tls.files(config, name)
        is_own = files.certificate.parent == folder
        if is_own and (name in renew or not files.certificate.exists()):
            _make(f"{name} of {socket.gethostname()}", files, folder / f"{tls.CA}.pem")
            if name == "operator":
                _give_to_group(files.key)
            made.append(files.certificate)
    return made


def issue(config: Config, name: str, folder: Path | None = None) -> tls.Files:
    """Make a key and a certificate of the senders' authority for a modality; replace existing ones. Raises InvalidValueError and DdwdError."""
    if _NAME.fullmatch(name) is None:
        raise InvalidValueError(f"{name!r} is not a valid name: write letters, digits, _ . and -, at most 64")
    target = folder or config.tls.folder / ISSUED
    durable.make_dirs(target, 0o700)
    files = tls.Files(target / f"{name}.pem", target / f"{name}.key")
    _make(f"{name} of {socket.gethostname()}", files, config.tls.folder / f"{tls.SENDERS_CA}.pem")
    return files


def link(config: Config, folder: Path, names: Sequence[str], common: str) -> list[Path]:
    """Make a key and a certificate of the link's authority in `folder`; make the authority too if there is none. Raises DdwdError.

    `names` are the DNS names in the certificate, one for each role of its machine (machine_link.subject).
    """
    home = config.link.folder
    durable.make_dirs(home, 0o755)
    durable.make_dir(folder, 0o755)
    authority = home / tls.LINK_CA
    if not authority.exists():
        own = tls.Files(authority, authority.with_suffix(".key"))
        _make(f"link authority of {socket.gethostname()}", own)
    files = tls.Files(folder / tls.LINK, folder / tls.LINK_KEY)
    _make(common, files, authority, [f"DNS:{name}" for name in names])
    if folder != home:
        durable.replace_file(folder / tls.LINK_CA, authority.read_bytes(), 0o644)
    return [folder / tls.LINK_CA, *files]


def show(config: Config) -> list[CertificateFacts]:
    """Return the facts of every certificate that exists. Raises DdwdError if one cannot be read."""
    files = [("link authority", config.link.folder / tls.LINK_CA), ("link", config.link.folder / tls.LINK)]
    files += [(tls.CA, tls.authority(config)), (tls.SENDERS_CA, tls.senders_authority(config))]
    files += [(name, tls.files(config, name).certificate) for name in tls.NAMES]
    issued = sorted((config.tls.folder / ISSUED).glob("*.pem"))
    files += [(f"{ISSUED} {path.stem}", path) for path in issued]
    return [_read(role, path) for role, path in files if path.exists()]


def _read(role: str, path: Path) -> CertificateFacts:
    """Return the facts of the first certificate in a PEM file. Raises DdwdError if there is none."""
    arguments = ["x509", "-in", str(path), "-noout", "-subject", "-issuer", "-enddate"]
    arguments += ["-dateopt", "iso_8601", "-nameopt", "RFC2253", "-ext", "subjectAltName"]
    text = openssl.run(arguments, f"{path} cannot be read")
    facts = dict(re.findall(r"^(subject|issuer|notAfter)=(.*)$", text, re.MULTILINE))
    names = re.findall(r"(?:DNS|IP Address):([^,\s]+)", text)
    return CertificateFacts(
        role,
        path,
        _common_name(facts["subject"]),
        _common_name(facts["issuer"]),
        datetime.fromisoformat(facts["notAfter"].rstrip("Z")).replace(tzinfo=UTC),
        tuple(names),
    )


def _common_name(subject: str) -> str:
    found = re.search(r"CN=((?:\\.|[^,\\])*)", subject)
    return found[1] if found else subject


def _make(
    common: str, files: tls.Files, authority: Path | None = None, names: Sequence[str] | None = None
) -> None:
    """Make a key and its certificate, of an authority if `authority` is None; each file is replaced in one step, the key first.

    `names` are by default those of this machine. Raises NotFoundError without the key of `authority`, and DdwdError.
    """
    kind, days, signing = "authority", AUTHORITY_DAYS, []
    if authority is not None:
        signing_key = authority.with_suffix(".key")
        if not signing_key.exists():
            raise NotFoundError(
                f"{signing_key} does not exist: no certificate can be signed without it; have your own authority sign"
            )
        kind, days = "node", CERTIFICATE_DAYS
        signing = ["-CA", str(authority), "-CAkey", str(signing_key)]
    command = ["req", "-x509", "-config", "/dev/stdin", "-extensions", kind, "-days", str(days), "-sha256"]
    text = _CONFIG.format(common=common[:64], names=", ".join(names or _names()))
    # openssl opens its files by their paths: it gets a folder that no other user can reach
    with tempfile.TemporaryDirectory(prefix="ddwd-certificate-") as folder:
        fresh = tls.Files(Path(folder, "certificate"), Path(folder, "key"))
        command += ["-newkey", KEY, "-noenc", "-out", str(fresh.certificate), "-keyout", str(fresh.key)]
        openssl.run([*command, *signing], "no certificate could be made", text)
        durable.replace_file(files.key, fresh.key.read_bytes(), 0o600)
        durable.replace_file(files.certificate, fresh.certificate.read_bytes(), 0o644)


def _names() -> list[str]:
    """Return the names and addresses of this machine, which its peers check."""
    names = dict.fromkeys(name for name in ("localhost", socket.gethostname(), socket.getfqdn()) if name)
    return [*(f"DNS:{name}" for name in names), "IP:127.0.0.1", "IP:::1"]


def _give_to_group(key: Path) -> None:
    """Let group ddwd read the key: the operators' commands run in that group."""
    try:
        group = grp.getgrnam("ddwd").gr_gid
    except KeyError:
        return  # `ddwd try` on a machine where the portal is not installed
    if os.geteuid() == 0:
        safe_folder.give(key, 0, group, 0o640)
