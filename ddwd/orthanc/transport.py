"""HTTP to one Orthanc: sessions, time-outs, errors, and a breaker for a server that hangs."""

from __future__ import annotations

import io
import json
import threading
import time
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ReadTimeoutError
from urllib3.util.retry import Retry

from ddwd.core import watchdog
from ddwd.core.errors import NotFoundError, PeerDownError, PeerRefusedError

_CONNECT_SECONDS = 3.0
_SILENCE_SECONDS = 20.0
"""Longest silence of a server after a short request; with the time to connect below WatchdogSec."""
_FILE_SILENCE_SECONDS = 60.0
"""The same if Orthanc reads a whole file before it sends the first byte of its answer."""
_SLOW_SECONDS = 2.0
"""If a request failed after more than this, the server counts as hung."""
_PAUSE_SECONDS = 5.0
"""A hung server gets no request for this long; then one caller sends a short one."""
_PROBE_SECONDS = 3.0
_PROBE = "/changes?last"
_CHUNK = 1024 * 1024
NOT_WHOLE = frozenset({400, 13, 20, 2006})
"""Reasons of a file that is not there as it was stored: another MD5 (HTTP 400), Orthanc's InexistentFile, CorruptedFile, RegularFileExpected."""
_NOT_FOUND, _FIRST_ERROR = 404, 400


class _Again(Retry):
    """Retries once for a keep-alive connection that the server closed, never for a server that was silent."""

    def increment(self, *args: Any, **named: Any) -> Self:
        if isinstance(named.get("error"), ReadTimeoutError):
            raise named["error"]
        return super().increment(*args, **named)


class _Breaker:
    """Circuit breaker: while a server hangs, one caller at a time tries a short request, and all others fail at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed_until: float | None = None

    def must_probe(self, now: float) -> bool | None:
        """Return None to send, True to send the short request first, False not to send. Only one caller at a time gets True."""
        with self._lock:
            if self._closed_until is None:
                return None
            if now < self._closed_until:
                return False
            self._closed_until = now + _PAUSE_SECONDS + _PROBE_SECONDS
            return True

    def answered(self) -> None:
        """Note that the server answered, or refused the connection, which costs no time."""
        with self._lock:
            self._closed_until = None

    def hung(self, now: float) -> None:
        """Note that a request timed out."""
        with self._lock:
            self._closed_until = now + _PAUSE_SECONDS


class Transport:
    """Requests to the Orthanc behind `base_url`; safe to use from several threads (one session each). Each wait goes to core.watchdog."""

    def __init__(self, name: str, base_url: str, user: str, password: str) -> None:
        self.name = name
        self._base = base_url.rstrip("/")
        self._auth = (user, password)
        self._local = threading.local()
        self._breaker = _Breaker()

    def _json(self, method: str, path: str, body: object = None) -> Any:
        return self._parsed(path, self._request(method, path, json=body))

    def _parsed(self, path: str, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError as error:
            where = f"{self.name}: {path.partition('?')[0]}"
            raise PeerRefusedError(f"{where}: the answer is not JSON") from error

    def _bytes(self, path: str, headers: dict[str, str] | None = None) -> bytes:
        return self._request("GET", path, headers=headers)

    def _file_request(self, method: str, path: str) -> bytes:
        """Send a request for which Orthanc reads a whole file before it answers."""
        return self._request(method, path, silence=_FILE_SILENCE_SECONDS)

    def _request(self, method: str, path: str, *, silence: float = _SILENCE_SECONDS, **options: Any) -> bytes:
        """Return the body of the answer. For a server that hangs see _Breaker."""
        probe = self._breaker.must_probe(time.monotonic())
        if probe is False:
            raise PeerDownError(f"{self.name} does not answer on {self._base} (it hung a moment ago)")
        if probe:
            self._ask("GET", _PROBE, _PROBE_SECONDS)
        status, content = self._ask(method, path, silence, **options)
        if status == _NOT_FOUND:
            raise NotFoundError(f"{self.name}: not found: {path.partition('?')[0]}")
        if status >= _FIRST_ERROR:
            message = f"{self.name}: HTTP {status} for {path.partition('?')[0]}"
            raise PeerRefusedError(message, _orthanc_status(content) or status, f"HTTP {status}")
        return content

    def _ask(self, method: str, path: str, silence: float, **options: Any) -> tuple[int, bytes]:
        """Return HTTP status and body."""
        start = time.monotonic()
        content = io.BytesIO()
        options |= {"timeout": (_CONNECT_SECONDS, silence), "stream": True}
        watchdog.alive(_CONNECT_SECONDS + silence)
        try:
            with self._session().request(method, self._base + path, **options) as answer:
                for chunk in answer.iter_content(_CHUNK):
                    content.write(chunk)
                    start = time.monotonic()
                    watchdog.alive(silence)
        except requests.RequestException as error:
            now = time.monotonic()
            if now - start >= _SLOW_SECONDS:
                self._breaker.hung(now)
            else:
                self._breaker.answered()
            reason = type(error).__name__
            raise PeerDownError(f"{self.name} does not answer on {self._base} ({reason})") from error
        finally:
            watchdog.alive()
        self._breaker.answered()
        return answer.status_code, content.getvalue()

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.auth = self._auth
            session.trust_env = False  # a proxy of the environment must never see images
            retry = _Again(total=1, connect=0, read=1, status=0, allowed_methods=frozenset({"GET"}))
            session.mount(self._base, HTTPAdapter(max_retries=retry))
            self._local.session = session
        return session


def _orthanc_status(content: bytes) -> int:
    """Return Orthanc's error code from the body of an error answer; 0 if it has none."""
    try:
        return int(json.loads(content)["OrthancStatus"])
    except (ValueError, KeyError, TypeError):
        return 0
