"""HTTP to one Orthanc: sessions, time-outs, errors, and a breaker for a server that hangs."""

from __future__ import annotations

import io
import json
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util.retry import Retry

from ddwd.core import watchdog
from ddwd.core.errors import NotFoundError, PeerDownError, PeerRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

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
_AS_STORED = {"Accept-Encoding": "identity"}
"""A file that is compressed on its way has another length than the one that is announced to its receiver."""
_LONGEST_WORDS = 100
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
        self.user = user
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

    def _file_request(self, method: str, path: str, data: object = None) -> bytes:
        """Send a request for which Orthanc reads or writes a whole file before it answers."""
        return self._request(method, path, silence=_FILE_SILENCE_SECONDS, data=data)

    def _request(self, method: str, path: str, *, silence: float = _SILENCE_SECONDS, **options: Any) -> bytes:
        """Return the body of the answer. For a server that hangs see _Breaker."""
        self._assert_answering()
        status, content = self._ask(method, path, silence, **options)
        self._assert_success(status, path, content)
        return content

    def _stream(self, path: str) -> Stream:
        """Return a file that Orthanc answers, to be read piece by piece and closed."""
        self._assert_answering()
        watchdog.alive(_CONNECT_SECONDS + _FILE_SILENCE_SECONDS)
        try:
            answer = self._session().get(
                self._base + path,
                headers=_AS_STORED,
                timeout=(_CONNECT_SECONDS, _FILE_SILENCE_SECONDS),
                stream=True,
            )
            if answer.status_code >= _FIRST_ERROR:
                with answer:
                    self._assert_success(answer.status_code, path, answer.content)
        except requests.RequestException as error:
            raise self._is_down(error) from error
        return Stream(answer, self)

    def _assert_answering(self) -> None:
        """Raises PeerDownError while the server hangs."""
        probe = self._breaker.must_probe(time.monotonic())
        if probe is False:
            raise PeerDownError(f"{self.name} does not answer on {self._base} (it hung a moment ago)")
        if probe:
            self._ask("GET", _PROBE, _PROBE_SECONDS)

    def _assert_success(self, status: int, path: str, content: bytes) -> None:
        """Raises NotFoundError and PeerRefusedError."""
        path = path.partition("?")[0]
        if status == _NOT_FOUND:
            raise NotFoundError(f"{self.name}: not found: {path}")
        if status >= _FIRST_ERROR:
            code, words = _orthanc_error(content)
            message = f"{self.name}: HTTP {status} for {path}" + (f": {words}" if words else "")
            raise PeerRefusedError(message, code or status, f"HTTP {status}")

    def _is_down(self, error: Exception) -> PeerDownError:
        return PeerDownError(f"{self.name} does not answer on {self._base} ({type(error).__name__})")

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
            raise self._is_down(error) from error
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


class Stream:
    """A file that one Orthanc answers, as the body of a request to another one: at no time is more than a piece of it in memory."""

    def __init__(self, answer: requests.Response, source: Transport) -> None:
        self._answer = answer
        self._source = source
        self._size = self._left = int(answer.headers["Content-Length"])

    def __len__(self) -> int:
        """Return the size of the file, which the request names before it."""
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        """Yield the file in pieces."""
        return iter(lambda: self.read(_CHUNK), b"")

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; none at the end. Raises PeerDownError."""
        watchdog.alive(_FILE_SILENCE_SECONDS)
        try:
            piece = bytes(self._answer.raw.read(size))
        except (HTTPError, OSError) as error:
            raise self._source._is_down(error) from error
        self._left -= len(piece)
        if not piece and self._left:  # the receiver must not wait for the rest
            raise self._source._is_down(EOFError())
        return piece

    def close(self) -> None:
        """End the answer; what was not read of it is dropped."""
        self._answer.close()


def _orthanc_error(content: bytes) -> tuple[int, str]:
    """Return Orthanc's error code and its fixed description of it from the body of an error answer; 0 and empty if it has none.

    What Orthanc adds for this one request ("Details") may have values of elements in it, and so patient data.
    """
    try:
        answer = json.loads(content)
        return int(answer["OrthancStatus"]), str(answer.get("Message", ""))[:_LONGEST_WORDS]
    except (ValueError, KeyError, TypeError):
        return 0, ""
