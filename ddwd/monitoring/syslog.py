"""Send DICOM audit messages by syslog: RFC 5424 frames, over UDP (RFC 5426) or TLS (RFC 5425). Raises PeerDownError."""

from __future__ import annotations

import os
import socket
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ddwd.core.errors import PeerDownError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ddwd.config.loader import AuditConfig

_PRIORITY = 10 * 8 + 5
"""Facility 10 (security), severity 5 (notice): PS3.15 A.6."""
_MESSAGE_ID = "DICOM+RFC3881"
_SECONDS = 15.0
_LARGEST_DATAGRAM = 65_000


def frame(xml: bytes, at: datetime | None = None) -> bytes:
    """Return one RFC 5424 message around an audit message; the byte order mark marks it as UTF-8."""
    stamp = (at or datetime.now(UTC)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = f"<{_PRIORITY}>1 {stamp} {socket.gethostname()} ddwd {os.getpid()} {_MESSAGE_ID} - "
    return head.encode("ascii", "replace") + b"\xef\xbb\xbf" + xml


def send(settings: AuditConfig, messages: Iterable[tuple[Path, bytes]]) -> Iterable[Path]:
    """Send the messages in order; yield each that was sent."""
    if settings.transport == "udp":
        yield from _by_udp(settings, messages)
    else:
        yield from _by_tls(settings, messages)


def _by_udp(settings: AuditConfig, messages: Iterable[tuple[Path, bytes]]) -> Iterable[Path]:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_DGRAM)
        family, _, _, _, address = found[0]
        with socket.socket(family, socket.SOCK_DGRAM) as out:
            for path, xml in messages:
                out.sendto(frame(xml)[:_LARGEST_DATAGRAM], address)
                yield path
    except OSError as error:
        raise _down(settings, error) from error


def _by_tls(settings: AuditConfig, messages: Iterable[tuple[Path, bytes]]) -> Iterable[Path]:
    try:
        context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate:
            context.load_cert_chain(settings.certificate, settings.key)
        with (
            socket.create_connection((settings.host, settings.port), timeout=_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=settings.host) as out,
        ):
            handed = []
            for path, xml in messages:
                content = frame(xml)
                out.sendall(b"%d %s" % (len(content), content))
                handed.append(path)
            out.unwrap()  # the receiver has read all messages: only now may they be deleted here
            yield from handed
    except (OSError, ValueError) as error:
        raise _down(settings, error) from error


def _down(settings: AuditConfig, error: Exception) -> PeerDownError:
    why = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or type(error).__name__
    return PeerDownError(f"audit repository {settings.host}:{settings.port}: {why}")
