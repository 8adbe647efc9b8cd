"""A connection that has yet to say something stays with the kernel; one that speaks is handed on at once."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

from ddwd.orthanc.plugin.listeners import prepare


def test_only_who_speaks_is_accepted_however_many_are_silent() -> None:
    with ExitStack() as opened:
        server = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=5))
        server.settimeout(5)
        port = server.getsockname()[1]
        before = len([*Path("/proc/self/fd").iterdir()])
        assert prepare({port}) == {port}
        assert len([*Path("/proc/self/fd").iterdir()]) == before
        for _ in range(50):
            opened.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        speaker = opened.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        speaker.sendall(b"\x01")
        accepted, address = server.accept()
        opened.enter_context(accepted)
        assert address == speaker.getsockname()
        assert accepted.recv(1) == b"\x01"


def test_other_sockets_and_files_are_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Path(os.devnull).open("rb"):
        assert prepare({server.getsockname()[1] + 1}) == set()
        assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) == 0


def test_every_port_is_for_what_comes_from_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        port = server.getsockname()[1]
        assert prepare({port}) == {port}
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"
        with socket.create_connection(server.getsockname(), 5) as speaker:
            speaker.sendall(b"\x01")
            with server.accept()[0] as accepted:
                assert accepted.recv(1) == b"\x01"


def test_the_ports_of_both_servers_are_prepared_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as dicom, socket.create_server(("127.0.0.1", 0)) as web:
        ports = {server.getsockname()[1] for server in (dicom, web)}
        assert prepare(ports | {1}) == ports
        for server in (dicom, web):
            assert server.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"
            assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) > 0
