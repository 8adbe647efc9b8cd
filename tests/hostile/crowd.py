"""Connections that keep a port busy and bring no image, from 64 addresses at once, each begun anew as soon as it is closed.

`python -m tests.hostile.crowd ADDRESS COUNT PORT ...` runs until its standard input ends; in a network namespace of a test's own, as root.
At each port a third is silent, a third has begun a TLS handshake, a third sends a byte a second; where HTTPS is spoken these
bytes come after the handshake. As many more are half open: their addresses never answer the SYN-ACK. Prints a line of JSON a second: at
each port how many are open, and how many were closed from the other side so far.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import socket
import ssl
import struct
import subprocess
import sys
from collections import Counter
from contextlib import suppress

HTTPS = (8442, 8443)
_SOURCES = tuple(f"10.99.0.{number}" for number in range(100, 164))
_NOWHERE = tuple(f"10.99.0.{number}" for number in range(180, 244))
_DEVICE = "eth0"
_REQUEST = b"\x01\x00\x00\x00\x01\x00" + bytes(256)
"""The beginning of an A-ASSOCIATE-RQ of 256 bytes (PS3.8 section 9.3.2)."""
_GET = b"GET /system HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"a" * 400
_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)
"""The beginning of a TLS ClientHello of 512 bytes."""


class Crowd:
    """All connections to one machine, with their numbers by port."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.open: Counter[int] = Counter()
        self.closed: Counter[int] = Counter()
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    async def stay(self, number: int, port: int) -> None:
        """Keep one connection to that port, for ever."""
        kind, source = ("silent", "hello", "slow")[number % 3], _SOURCES[number % len(_SOURCES)]
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await self._hold(kind, port, source)
            await asyncio.sleep(1)

    async def _hold(self, kind: str, port: int, source: str) -> None:
        is_https = kind == "slow" and port in HTTPS
        reader, writer = await asyncio.open_connection(
            self._address, port, local_addr=(source, 0), ssl=self._tls if is_https else None
        )
        self.open[port] += 1
        try:
            if kind == "hello":
                writer.write(_HELLO)
            pieces = itertools.cycle(_GET if is_https else _REQUEST) if kind == "slow" else ()
            sending = asyncio.ensure_future(_trickle(writer, pieces))
            try:
                while await reader.read(4096):
                    pass
            finally:
                sending.cancel()
            self.closed[port] += 1
        finally:
            self.open[port] -= 1
            writer.close()


async def _trickle(writer: asyncio.StreamWriter, pieces: itertools.cycle[int] | tuple[()]) -> None:
    for piece in pieces:
        await asyncio.sleep(1)
        with suppress(OSError):
            writer.write(bytes([piece]))
            await writer.drain()


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def half_open(address: str, port: int, count: int) -> None:
    """Send SYN segments of addresses that nobody has (RFC 9293 section 3.1)."""
    there = socket.inet_aton(address)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(count):
            here = socket.inet_aton(_NOWHERE[number % len(_NOWHERE)])
            fields = (20_000 + number, port, number, 0, 5 << 4, 0x02, 64_240)
            empty = struct.pack("!HHIIBBHHH", *fields, 0, 0)
            around = here + there + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(empty))
            segment = struct.pack("!HHIIBBHHH", *fields, _checksum(around + empty), 0)
            head = struct.pack(
                "!BBHHHBBH4s4s", 0x45, 0, 40, number, 0, 64, socket.IPPROTO_TCP, 0, here, there
            )
            raw.sendto(head + segment, (address, 0))


async def _main(address: str, count: int, ports: list[int]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count * len(ports) * 2 + 256,) * 2)
    for source in _SOURCES:
        command = ["ip", "addr", "add", f"{source}/24", "dev", _DEVICE]
        subprocess.run(command, check=False, capture_output=True)
    crowd = Crowd(address)
    staying = [asyncio.ensure_future(crowd.stay(number, port)) for number in range(count) for port in ports]
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for port in ports:
        half_open(address, port, count)
    while not ended.done():
        sys.stdout.write(json.dumps({"open": crowd.open, "closed": crowd.closed}) + "\n")
        sys.stdout.flush()
        await asyncio.wait([ended], timeout=1)
    for one in staying:
        one.cancel()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), [int(word) for word in sys.argv[3:]]))
