"""Bring each published head of the chain elsewhere: to a folder or an HTTPS URL, with a time stamp (RFC 3161) where that is set.

Only what is elsewhere shows later that somebody with all rights on this machine rewrote the chain. At least once, and in order: the
signer keeps every head, and the position moves only behind one that has arrived. The signer itself has no network.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import requests

from ddwd.chain.head import FORMAT, HeadFiles, SignedHead
from ddwd.core import durable
from ddwd.core.clock import stamp
from ddwd.core.errors import DdwdError, PeerDownError, PeerRefusedError, StateError, reason_of
from ddwd.monitoring.retried_work import RetriedWork
from ddwd.provisioning import openssl
from ddwd.store.status_files import CHAIN_PUBLICATION, ChainPublication

if TYPE_CHECKING:
    from ddwd.config.paths import Paths
    from ddwd.config.schema import ChainConfig
    from ddwd.core.clock import Clock

_SECONDS = 20.0
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 30.0, 1800.0
_SYSTEM_AUTHORITIES = "/etc/ssl/certs"
_NOT_DELIVERED = range(300, 400)
"""A redirection has delivered nothing, and is not followed."""
_QUERY, _ANSWER = "application/timestamp-query", "application/timestamp-reply"


class ChainPublisher:
    """Publishes new heads; once started, in a thread of its own, which `step` wakes."""

    def __init__(self, settings: ChainConfig, paths: Paths, clock: Clock) -> None:
        self._settings = settings
        self._files = HeadFiles(paths.chain)
        self._state = paths.chain_publication
        self._stamps = paths.chain_stamps
        self._clock = clock
        self._thread = RetriedWork(
            "ddwd-chain", self.publish_new, _FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS
        )

    def start(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def step(self) -> None:
        """Have new heads published. Raises StateError with what is in the way of an earlier one."""
        self._thread.wake()
        state = CHAIN_PUBLICATION.read_or_none(self._state)
        if state is not None and state.problem:
            raise StateError(state.problem)

    def stop(self) -> None:
        """End soon; what is left is published after the next start."""
        self._thread.stop()

    def publish_new(self) -> bool:
        """Publish the heads that have not arrived yet; return whether all have. What is in the way is in the state."""
        state = CHAIN_PUBLICATION.read_or_none(self._state) or ChainPublication()
        try:
            for head in self._files.read_published():
                if self._thread.is_stopping:
                    return True
                if head.log != state.log or head.size > state.size:
                    self._publish(head)
                    state = ChainPublication(head.log, head.size, stamp(self._clock.utc()))
                    CHAIN_PUBLICATION.write(self._state, state)
            if state.problem:
                CHAIN_PUBLICATION.write(self._state, replace(state, problem="", since=""))
        except (DdwdError, OSError) as error:
            reason = reason_of(error)
            since = state.since or stamp(self._clock.utc())
            CHAIN_PUBLICATION.write_status(self._state, replace(state, problem=reason, since=since))
            return False
        return True

    def _publish(self, head: SignedHead) -> None:
        """Bring one head everywhere. Raises PeerDownError, PeerRefusedError, StorageFullError and OSError."""
        token = self._stamped(head) if self._settings.timestamp_url else b""
        if (folder := self._settings.publish_folder) is not None:
            _put(folder / f"head-{head.size:012}.json", FORMAT.render(head))
            if token:
                _put(folder / f"head-{head.size:012}.tsr", token)
        elif self._settings.publish_to:
            _post(self._settings.publish_to, FORMAT.render(head), "application/json", "the receiver of heads")

    def _stamped(self, head: SignedHead) -> bytes:
        """Return the time stamp of a head, checked; ask for it unless it is there."""
        path = self._stamps / f"{head.size:012}.tsr"
        if path.exists():
            return path.read_bytes()
        authorities = self._settings.timestamp_ca
        trusted = ["-CAfile", str(authorities)] if authorities else ["-CApath", _SYSTEM_AUTHORITIES]
        with tempfile.TemporaryDirectory() as folder:
            text, query, answer = (Path(folder, name) for name in ("text", "query", "answer"))
            text.write_bytes(head.text())
            asking = ["ts", "-query", "-data", str(text), "-sha256", "-cert", "-out", str(query)]
            openssl.run(asking, "no time stamp can be requested")
            url = self._settings.timestamp_url or ""
            token = _post(url, query.read_bytes(), _QUERY, "the time stamp authority")
            answer.write_bytes(token)
            checking = ["ts", "-verify", "-queryfile", str(query), "-in", str(answer), *trusted]
            try:
                openssl.run(checking, "the time stamp")
            except DdwdError as error:
                raise PeerRefusedError("the time stamp authority: its stamp does not hold") from error
        durable.make_dirs(path.parent)
        durable.replace_file(path, token)
        return token


def _put(path: Path, content: bytes) -> None:
    """Write a file that is never replaced; one with other content is an error."""
    if path.exists() and path.read_bytes() != content:
        raise StateError(f"{path} is of another chain; it stays as it is: choose another folder")
    if not path.exists():
        durable.replace_file(path, content, 0o644)


def _post(url: str, content: bytes, kind: str, who: str) -> bytes:
    """POST to a URL; return the answer. Raises PeerDownError and PeerRefusedError."""
    with requests.Session() as session:
        session.trust_env = False  # a proxy of the environment is not the operator's choice
        headers = {"Content-Type": kind, "Accept": _ANSWER} if kind == _QUERY else {"Content-Type": kind}
        try:
            answer = session.post(url, data=content, headers=headers, timeout=_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise PeerDownError(f"{who}: {type(error).__name__}") from error
    if not answer.ok or answer.status_code in _NOT_DELIVERED:
        raise PeerRefusedError(f"{who}: HTTP {answer.status_code}")
    return answer.content
