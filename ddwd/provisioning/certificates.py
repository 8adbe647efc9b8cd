"""The portal's certificates: made by openssl(1), read back by it; `ddwd tls` is the only user that writes.

Two authorities in the folder of the settings: `ca` for the portal's own parts, `senders-ca` for the modalities, so that a key
stolen from a modality opens no inner hop. RSA of 3072 bits, because Debian's Orthanc offers TLS 1.2 for RSA alone. Keys
are written for root alone; the operator's own for group ddwd too, since `ddwd` commands run in it.
"""

from __future__ import annotations

import grp
import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.config import tls
from ddwd.core.durable import replace_file
from ddwd.core.errors import DdwdError, InvalidValueError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ddwd.config.loader import Config

AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 825
ISSUED = "issued"
"""Sub-folder for what was made for modalities and people."""
KEY = "rsa:3072"
"""The kind of every key, as openssl req -newkey names it."""

_SECONDS = 60
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_GROUP = "ddwd"
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
class Shown:
    """One certificate as people are shown it."""

    role: str
    path: Path
    subject: str
    issuer: str
    expires: datetime
    names: tuple[str, ...]


def init(config: Config, renew: Sequence[str] = ()) -> list[Path]:
    """Make what is missing of both authorities and all certificates, and those named in `renew` anew; the files written.

    Raises DdwdError where openssl fails, OSError where the folder cannot be written.
    """
    folder = config.tls.folder
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    made = []
    for name, common in (
        (tls.CA, "portal authority"),
        (tls.SENDERS_CA, "authority of the senders"),
    ):
        if name == tls.SENDERS_CA and config.tls.senders_ca is not None:
            continue
        if not (folder / f"{name}.pem").exists():
            made.append(_make_authority(folder, name, f"{common} of {socket.gethostname()}"))
    for name in tls.NAMES:
        found = tls.files(config, name)
        is_ours = found.certificate.parent == folder
        if is_ours and (name in renew or not found.certificate.exists()):
            _require(folder / f"{tls.CA}.key")
            made.append(_make(folder, folder / tls.CA, found, name))
    return made


def issue(config: Config, name: str, folder: Path | None = None) -> tls.Files:
    """Make a key and a certificate of the senders' authority for a modality; anew where there is one. Raises InvalidValueError."""
    if _NAME.fullmatch(name) is None:
        raise InvalidValueError(f"{name!r} is no name: write letters, digits, _ . and -, 64 at most")
    target = folder or config.tls.folder / ISSUED
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = config.tls.folder / tls.SENDERS_CA
    _require(authority.with_suffix(".key"))
    found = tls.Files(target / f"{name}.pem", target / f"{name}.key")
    _make(target, authority, found, name)
    return found


def link(config: Config, folder: Path, names: Sequence[str], common: str) -> list[Path]:
    """Make a certificate of the link's authority, and its key, in `folder`; the authority too where there is none yet. Raises DdwdError.

    `names` is what it says of its machine: the roles that it has (ddwd/provisioning/machine_link.py).
    """
    home = config.link.folder
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.mkdir(mode=0o755, exist_ok=True)
    authority = home / tls.LINK_CA
    if not authority.exists():
        own = tls.Files(authority, authority.with_suffix(".key"))
        _request(f"link authority of {socket.gethostname()}", "authority", AUTHORITY_DAYS, own, ())
    _require(authority.with_suffix(".key"))
    files = tls.Files(folder / tls.LINK, folder / tls.LINK_KEY)
    _request(common, "node", CERTIFICATE_DAYS, files, _signed_by(authority), [f"DNS:{one}" for one in names])
    if folder != home:
        replace_file(folder / tls.LINK_CA, authority.read_bytes(), 0o644)
    return [folder / tls.LINK_CA, *files]


def show(config: Config) -> list[Shown]:
    """Every certificate there is. Raises DdwdError for one that cannot be read."""
    return [read(role, path) for role, path in _all(config) if path.exists()]


def read(role: str, path: Path) -> Shown:
    """The first certificate of a PEM file. Raises DdwdError where there is none."""
    asked = ["x509", "-in", str(path), "-noout", "-subject", "-issuer", "-enddate", "-dateopt", "iso_8601"]
    asked += ["-nameopt", "RFC2253", "-ext", "subjectAltName"]
    said = _openssl(asked, f"{path} cannot be read")
    facts = dict(
        line.split("=", 1) for line in said.splitlines() if re.match(r"(subject|issuer|notAfter)=", line)
    )
    names = re.findall(r"(?:DNS|IP Address):([^,\s]+)", said)
    return Shown(
        role,
        path,
        _common_name(facts["subject"]),
        _common_name(facts["issuer"]),
        datetime.fromisoformat(facts["notAfter"].rstrip("Z")).replace(tzinfo=UTC),
        tuple(names),
    )


def _all(config: Config) -> Iterator[tuple[str, Path]]:
    yield "link authority", config.link.folder / tls.LINK_CA
    yield "link", config.link.folder / tls.LINK
    yield tls.CA, tls.authority(config)
    yield tls.SENDERS_CA, tls.senders_authority(config)
    for name in tls.NAMES:
        yield name, tls.files(config, name).certificate
    for path in sorted((config.tls.folder / ISSUED).glob("*.pem")):
        yield f"{ISSUED} {path.stem}", path


def _common_name(subject: str) -> str:
    found = re.search(r"CN=((?:\\.|[^,\\])*)", subject)
    return found[1] if found else subject


def _require(key: Path) -> None:
    if not key.exists():
        raise NotFoundError(
            f"{key} does not exist: without it nothing can be signed; sign it at your own authority"
        )


def _make_authority(folder: Path, name: str, common: str) -> Path:
    certificate = folder / f"{name}.pem"
    _request(common, "authority", AUTHORITY_DAYS, tls.Files(certificate, folder / f"{name}.key"), ())
    return certificate


def _make(folder: Path, authority: Path, files: tls.Files, name: str) -> Path:
    signing = _signed_by(authority.with_suffix(".pem"))
    _request(f"{name} of {socket.gethostname()}", "node", CERTIFICATE_DAYS, files, signing)
    if name == "operator" and folder.name != ISSUED:
        _give_to_group(files.key)
    return files.certificate


def _signed_by(authority: Path) -> tuple[str, ...]:
    return ("-CA", str(authority), "-CAkey", str(authority.with_suffix(".key")))


def _request(
    common: str,
    kind: str,
    days: int,
    files: tls.Files,
    signing: Sequence[str],
    names: Sequence[str] | None = None,
) -> None:
    """A new key with its certificate; both are put in place whole, the key first."""
    fresh = tls.Files(files.certificate.with_suffix(".pem.new"), files.key.with_suffix(".key.new"))
    command = ["req", "-x509", "-config", "/dev/stdin", "-extensions", kind, "-days", str(days), "-sha256"]
    command += ["-newkey", KEY, "-noenc", "-out", str(fresh.certificate), "-keyout", str(fresh.key)]
    text = _CONFIG.format(common=common[:64], names=", ".join(names or _names()))
    try:
        _openssl([*command, *signing], "no certificate could be made", text)
        replace_file(files.key, fresh.key.read_bytes(), 0o600)
        replace_file(files.certificate, fresh.certificate.read_bytes(), 0o644)
    finally:
        for path in fresh:
            path.unlink(missing_ok=True)


def _names() -> list[str]:
    """What this machine is called, for those who check it."""
    names = dict.fromkeys(name for name in ("localhost", socket.gethostname(), socket.getfqdn()) if name)
    return [*(f"DNS:{name}" for name in names), "IP:127.0.0.1", "IP:::1"]


def _give_to_group(key: Path) -> None:
    """The operators' commands run in group ddwd."""
    try:
        group = grp.getgrnam(_GROUP).gr_gid
    except KeyError:
        return  # a trial on a machine without the portal
    if os.geteuid() == 0:
        os.chown(key, 0, group)
        key.chmod(0o640)


def _openssl(arguments: Sequence[str], trouble: str, text: str = "") -> str:
    program = shutil.which("openssl")
    if program is None:
        raise DdwdError("openssl is not here: apt install openssl")
    try:
        done = subprocess.run(
            [program, *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
            umask=0o077,
        )
    except subprocess.TimeoutExpired:
        raise DdwdError(f"{trouble}: openssl took longer than {_SECONDS} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise DdwdError(f"{trouble}: {lines[0] if lines else 'openssl failed'}")
    return done.stdout
