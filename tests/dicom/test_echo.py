"""`ddwd echo` against a node on a real socket: what answers, what rejects, what is silent, and which nodes the settings name."""

from __future__ import annotations

import io
import json
import socket
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pynetdicom import AE, evt

from ddwd.cli import echo
from ddwd.cli.main import parser
from ddwd.config.routing import Destination
from ddwd.config.schema import Config
from ddwd.core.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Node:
    """A node that answers C-ECHO with a status."""

    def __init__(self) -> None:
        self.status, self.callers = 0x0000, list[str]()
        entity = AE("WS1")
        entity.require_called_aet = True
        entity.add_supported_context("1.2.840.10008.1.1")
        self.server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, self._answer)]
        )
        assert self.server is not None
        self.port = self.server.server_address[1]

    def _answer(self, event: evt.Event) -> int:
        self.callers.append(event.assoc.requestor.ae_title.strip())
        return self.status


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    assert made.server is not None
    made.server.shutdown()


def _run(config: Config, *words: str) -> tuple[int, dict[str, Any], str]:
    args: Namespace = parser().parse_args(["echo", *words])
    out, shown = io.StringIO(), io.StringIO()
    status = args.run(Namespace(**{**vars(args), "json": True}), config, out)
    args.run(Namespace(**{**vars(args), "json": False}), config, shown)
    return status, json.loads(out.getvalue()), shown.getvalue()


def test_a_node_that_answers_is_shown_with_its_address_and_the_time_it_took(node: Node) -> None:
    status, told, text = _run(Config(), f"WS1@127.0.0.1:{node.port}", "--calling", "CT1")
    (row,) = told["nodes"]
    assert (status, row["answers"], row["at"]) == (0, True, f"WS1 at 127.0.0.1:{node.port}")
    assert "answers as WS1 at 127.0.0.1" in text
    assert set(node.callers) == {"CT1"}


def test_a_node_that_rejects_is_shown_with_both_ae_titles(node: Node) -> None:
    status, _, text = _run(Config(), f"WRONG@127.0.0.1:{node.port}", "--calling", "CT1")
    assert status == 1
    assert (
        f"NO ANSWER: WRONG at 127.0.0.1:{node.port} rejected the association of CT1: check both AE titles"
        in text
    )


def test_a_failure_is_shown_with_its_status(node: Node) -> None:
    node.status = 0x0122
    status, _, text = _run(Config(), f"WS1@127.0.0.1:{node.port}")
    assert status == 1
    assert "answered the C-ECHO with status 0x0122" in text


def test_one_that_does_not_listen_hides_no_other(node: Node) -> None:
    with socket.socket() as bound:  # nobody else can take the port, and it takes no connection
        bound.bind(("127.0.0.1", 0))
        closed = bound.getsockname()[1]
        status, told, text = _run(
            Config(), f"GONE@127.0.0.1:{closed}", f"WS1@127.0.0.1:{node.port}", "--timeout", "2"
        )
    assert status == 1
    assert [row["answers"] for row in told["nodes"]] == [False, True]
    assert f"GONE at 127.0.0.1:{closed} does not answer" in text


def test_the_nodes_of_the_settings_are_asked_by_name_or_ae_title_each_as_it_is_called(node: Node) -> None:
    base = Config()
    teaching = Destination("teaching", aet="WS1", host="127.0.0.1", port=node.port)
    config = replace(
        base, scp=replace(base.scp, aet="WS1", host="127.0.0.1", port=node.port), destinations=(teaching,)
    )
    status, told, _ = _run(config, "teaching", "scp", "ws1")
    assert (status, [row["node"] for row in told["nodes"]]) == (0, ["teaching", "scp", "ws1"])
    assert set(node.callers) == {"ORTHANC1", "DDWD_SEND"}
    _, everything, _ = _run(config, "--timeout", "1")
    assert [row["node"] for row in everything["nodes"]] == ["gateway", "storage", "scp", "teaching"]


@pytest.mark.parametrize(
    "words", ["nowhere", "WS1@host", "WS1@host:0", "WS1@host:65536", "@host:104", "A" * 17 + "@host:104"]
)
def test_a_node_that_nobody_knows_is_one_line_with_what_to_write(words: str) -> None:
    with pytest.raises(InvalidValueError):
        _run(Config(), words)


def test_the_verb_says_what_each_exit_status_means() -> None:
    assert echo.COMMAND.exits.keys() == {0, 1}
