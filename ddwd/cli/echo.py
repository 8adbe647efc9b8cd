"""`ddwd echo [NODE ...]`: ask DICOM nodes for an answer to a C-ECHO. Writes nothing."""

import re
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypedDict

from ddwd.cli.command import Argument, Command, VerbResult, prints
from ddwd.config import tls
from ddwd.config.schema import Config, Role
from ddwd.core.answers import Key
from ddwd.core.errors import DdwdError, InvalidValueError
from ddwd.core.model import SEND_AET, parse_aet
from ddwd.dicom import nodes
from ddwd.dicom.move_scu import require_echo
from ddwd.dicom.upper_layer import Peer

_SECONDS = 5.0
_ADDRESS = re.compile(r"(?P<aet>[^@]+)@(?P<host>\[[0-9A-Fa-f:.]+\]|[^:@]+):(?P<port>[0-9]{1,5})")
_PORTS = range(1, 65536)


class _Row(TypedDict):
    node: str
    at: str
    answers: bool
    seconds: float
    reason: str


def _run(args: Namespace, config: Config) -> VerbResult:
    known = dict(_known(config, args.calling))
    rows = [_asked(name, _peer(name, known, args, config), args.timeout) for name in args.nodes or known]
    width = max(len(str(row["node"])) for row in rows)
    lines = [f"{row['node']:<{width}}  {_answer(row)}" for row in rows]
    return VerbResult({"nodes": rows}, lines, 0 if all(row["answers"] for row in rows) else 1)


def _known(config: Config, calling: str) -> Iterator[tuple[str, Callable[[], Peer]]]:
    """Yield the nodes of the settings by name; each is made when it is asked, since its certificates may not be readable.

    A destination is called as ORTHANC1 calls it.
    """
    parts: tuple[tuple[Role, nodes.Part], ...] = (
        ("gateway", "gateway"),
        ("storage", "storage"),
        ("extractor", "scp"),
    )
    for role, part in parts:
        if config.has(role):
            yield part, partial(nodes.of_part, config, part, calling)
    for one in config.destinations:
        if one.aet is not None and one.host is not None:
            yield (
                one.name,
                partial(_any, config, one.host, one.port, one.aet, config.gateway.aet, secure=one.tls),
            )


def _any(config: Config, host: str, port: int, called: str, calling: str, *, secure: bool) -> Peer:
    return Peer(host, port, called, calling, tls.with_operator(config) if secure else None)


def _peer(
    name: str, known: dict[str, Callable[[], Peer]], args: Namespace, config: Config
) -> Callable[[], Peer]:
    titles = {config.gateway.aet: "gateway", config.storage.aet: "storage", config.scp.aet: "scp"}
    if (node := titles.get(name.upper(), name)) in known:
        return known[node]
    found = _ADDRESS.fullmatch(name)
    if found is None or int(found["port"]) not in _PORTS:
        raise InvalidValueError(
            f"{name}: no node of this machine has this name ({', '.join(known)}); for any other write AE@HOST:PORT"
        )
    host, port, called = found["host"].strip("[]"), int(found["port"]), parse_aet(found["aet"])
    peer = _any(config, host, port, called, args.calling, secure=args.tls)
    return lambda: peer


def _asked(name: str, make: Callable[[], Peer], seconds: float) -> _Row:
    row: _Row = {"node": name, "at": "", "answers": False, "seconds": 0.0, "reason": ""}
    try:
        peer = make()
        row["at"] = str(peer)
        began = time.monotonic()
        require_echo(peer, seconds)
    except DdwdError as error:
        return {**row, "reason": str(error)}
    return {**row, "answers": True, "seconds": round(time.monotonic() - began, 3)}


def _answer(row: _Row) -> str:
    return (
        f"answers as {row['at']}, {row['seconds']:.3f} s" if row["answers"] else f"NO ANSWER: {row['reason']}"
    )


COMMAND = Command(
    "echo",
    "ask DICOM nodes for a C-ECHO",
    prints(_run),
    (
        Argument(
            "nodes",
            nargs="*",
            metavar="NODE",
            help="gateway, storage, scp or their AE titles, a destination, or AE@HOST:PORT (default: all of the settings)",
        ),
        Argument("--calling", default=SEND_AET, help="calling AE title (default: %(default)s)"),
        Argument(
            "--timeout",
            type=float,
            default=_SECONDS,
            metavar="SECONDS",
            help="how long to wait for each step (default: %(default)s)",
        ),
        Argument(
            "--tls", action="store_true", help="ask an AE@HOST:PORT by TLS, with the operator's certificate"
        ),
    ),
    about="""Storage is called as the extractor calls it, and a destination as the gateway does; everybody else by --calling.
A rejected association names the AE title that was called and the one that called.""",
    exits={0: "every node answers", 1: "a node does not answer; its line says why"},
    answer=(Key("nodes", list[_Row], "each node that was asked"),),
)
