"""Who holds a port is told from the kernel's table: the user always, the process where it may be seen."""

from __future__ import annotations

import errno
import os
import pwd
import socket
from pathlib import Path

from ddwd.config.schema import Config
from ddwd.provisioning.port_holders import Holder, cannot_start, holders, strangers

ME = pwd.getpwuid(os.geteuid()).pw_name
NOBODY = pwd.getpwnam("nobody")


def test_a_listening_socket_is_told_with_user_and_process_and_a_connection_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (found,) = holders(port)
        assert found.user == ME
        assert found.process.endswith(f" (process {os.getpid()})")
        with socket.create_connection(server.getsockname()) as one:
            assert holders(one.getsockname()[1]) == []
        in_use = OSError(errno.EADDRINUSE, "Address already in use")
        assert str(cannot_start(in_use, port)) == (
            f"cannot start: port {port} is held by {found} (Address already in use)"
        )


def test_a_process_that_may_not_be_seen_leaves_its_user(tmp_path: Path) -> None:
    (tmp_path / "self/net").mkdir(parents=True)
    row = f"   0: 00000000:1093 00000000:0000 0A 00000000:00000000 00:00000000 00000000 {NOBODY.pw_uid} 0 4711 1"
    (tmp_path / "self/net/tcp").write_text(f"  sl  local_address\n{row}\n", encoding="ascii")
    assert holders(4243, tmp_path) == [Holder("nobody")]
    assert str(Holder("nobody")) == "user nobody"
    assert holders(4244, tmp_path) == []


def test_the_services_root_and_who_asks_are_no_strangers_on_a_port() -> None:
    there = {
        4242: [Holder("ddwd-acceptor")],
        4252: [Holder("root")],
        8042: [Holder(ME)],
        4243: [Holder("ddwd-gateway", "Orthanc (process 3)")],
        9999: [Holder("somebody")],
    }
    found = [
        (port.key, holder.user) for port, holder in strangers(Config(), lambda port: there.get(port, []))
    ]
    assert found == [("storage.dicom_port", "ddwd-gateway")]
