"""What is fuzzed: each target takes any bytes, and may only end as its docstring says. Anything else is a finding.

They need no fuzzer: the tests play the corpus through them too. The receiver is the real one, on a real socket.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import struct
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ddwd.config.loader import load_with_sources
from ddwd.config.paths import Paths
from ddwd.config.schema import Config, Scp
from ddwd.core.clock import SystemClock
from ddwd.core.errors import ConfigError, StateError
from ddwd.core.model import identifier_of, marked_component, safe_component
from ddwd.dicom.head import UnreadableError, is_nested_deeper, read_head, read_identity
from ddwd.dicom.store_scp import Bounds, StoreScp
from ddwd.dicom.upper_layer import Limits
from ddwd.store.ledger import Ledger
from tests.identifiers import PADDING, escapes, escapes_marked

if TYPE_CHECKING:
    from collections.abc import Callable

_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
_AETS = b"PYTHON_SCP".ljust(16) + b"FUZZ".ljust(16)
_SECONDS = 20.0
_DEEPEST = 32
_MOST = 60_000
"""Bytes of one conversation: what a socket takes without being read."""


@cache
def scratch() -> Path:
    """A folder of this process, in memory where there is such a place: every round would wait for an fsync else."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="ddwd-fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def head(data: bytes) -> None:
    """The identifiers of a data set or a file: read, or UnreadableError."""
    descriptor = os.memfd_create("head")
    try:
        os.write(descriptor, data[1:])
        with suppress(UnreadableError):
            read_head(descriptor, 0, _SYNTAXES[(data or b"\0")[0] % len(_SYNTAXES)], b"")
        with suppress(UnreadableError):
            read_identity(data)
        with suppress(UnreadableError):
            is_nested_deeper(data, 32)
        with suppress(UnreadableError):
            is_nested_deeper(data, _DEEPEST)
    finally:
        os.close(descriptor)


def path(data: bytes) -> None:
    """Two identifiers: one plain path component each, the same one only for the same identifier; marked names where case is ignored too."""
    one, other = (half.decode("utf-8", "surrogateescape") for half in (data[::2], data[1::2]))
    for text in (one, other):
        for component, why in ((safe_component(text), escapes), (marked_component(text), escapes_marked)):
            assert why(component) == "", why(component)
            assert identifier_of(component) == (None if "%_" in component else text.strip(PADDING))
    if safe_component(one) == safe_component(other):
        assert one.strip(PADDING) == other.strip(PADDING)
    if marked_component(one).casefold() == marked_component(other).casefold():
        assert one.strip(PADDING) == other.strip(PADDING)


def ledger(data: bytes) -> None:
    """A segment of the ledger: read as far as it is sound, or StateError; and then it can be gone on with."""
    folder = scratch() / "ledger"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / "00000001.jsonl").write_bytes(data)
    with suppress(StateError):
        opened = Ledger.open(folder, SystemClock(), segment_bytes=4096, keep_days=1)
        opened.append("opened", study="fuzz")
        opened.commit()
        assert "fuzz" in Ledger.open(folder, SystemClock(), segment_bytes=4096, keep_days=1).state.open


def config(data: bytes) -> None:
    """The operator's file: settings, or ConfigError with every problem."""
    file = scratch() / "ddwd.yaml"
    file.write_bytes(data)
    with suppress(ConfigError):
        load_with_sources(file, {"DDWD_DEFAULTS": os.devnull})


@cache
def receiver() -> tuple[StoreScp, Paths]:
    """The SCP that all conversations are held with."""
    folder = scratch() / "scp"
    (folder / "out").mkdir(parents=True)
    settings = Config(scp=Scp(port=0), output_dir=folder / "out", run_dir=folder / "run")
    scp = StoreScp(settings, bounds=Bounds(connections=16, limits=Limits(negotiation=5.0, transfer=1.0)))
    scp.start()
    return scp, Paths(settings)


def pdu(data: bytes) -> None:
    """A conversation with the receiver, before (first byte even) or after the association: it lives on, and leaves nothing half done."""
    scp, paths = receiver()
    with socket.create_connection(("127.0.0.1", scp.port), _SECONDS) as peer, suppress(OSError):
        if data[:1] > b"" and data[0] % 2:
            peer.sendall(association())
            peer.recv(4096)
        peer.sendall(data[1:_MOST])
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65536):
            pass
    assert scp.answers(_SECONDS), "the receiver answers no C-ECHO any more"
    spooled = {file for file in paths.output.rglob("*") if file.is_file()}
    assert all(file.is_relative_to(paths.spool) or file.is_relative_to(paths.incoming) for file in spooled)
    for file in spooled:
        file.unlink()


def association() -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 section 9.3.2) for CT in one presentation context, number 1."""
    syntaxes = _item(0x30, b"1.2.840.10008.5.1.4.1.1.2") + _item(0x40, ExplicitVRLittleEndian.encode())
    user = _item(0x50, _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.3"))
    body = struct.pack(">HH", 1, 0) + _AETS + bytes(32)
    body += _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, struct.pack(">B3x", 1) + syntaxes) + user
    return struct.pack(">BxL", 1, len(body)) + body


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


TARGETS: dict[str, Callable[[bytes], None]] = {
    "pdu": pdu,
    "head": head,
    "path": path,
    "ledger": ledger,
    "config": config,
}
