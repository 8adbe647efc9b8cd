"""`ddwd send PATH...`: files and folders over C-STORE to the gateway."""

from __future__ import annotations

import json
import sys
import time
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ddwd.config import tls
from ddwd.core.errors import DeliveryError, PeerDownError, PeerRefusedError
from ddwd.core.model import SEND_AET
from ddwd.dicom.store_scu import Answer, Outgoing, examine, files, send
from ddwd.dicom.upper_layer import Peer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ddwd.config.schema import Config


_HERE = "127.0.0.1"
_EPILOG = """Files that are no DICOM are named and left out. Elements, pixel data and compression stay as they are.

exit status:
  0   every image was accepted
  1   some were not, or there was none; each is named with the reason
  64  wrong usage
  69  nobody answers there, or the connection broke; how many were not sent is said
  76  the association was refused, with the reason
  78  the configuration cannot be used"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb and its arguments."""
    parser = subparsers.add_parser(
        "send",
        help="send DICOM files or folders to the gateway by C-STORE",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a file, or a folder with all below it"
    )
    parser.add_argument("--host", default=_HERE, help="where to send (default: this machine)")
    parser.add_argument("--port", type=int, help="DICOM port (default: the gateway's)")
    parser.add_argument("--aet", help="called AE title (default: the gateway's)")
    parser.add_argument("--calling", default=SEND_AET, help="calling AE title (default: %(default)s)")
    parser.add_argument("--tls", action="store_true", help="by TLS, with the operator's certificate")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    """Send, then print what was refused and why; the exit status."""
    examined = [examine(path) for path in files(args.paths)]
    outgoing = [one for one in examined if isinstance(one, Outgoing)]
    answers = [one for one in examined if isinstance(one, Answer)]
    peer = _peer(args, config)
    began, failure = time.monotonic(), None
    try:
        _with_progress(peer, outgoing, answers.append, shown=sys.stderr.isatty() and not args.json)
    except (PeerDownError, PeerRefusedError) as error:
        failure = error
    _report(answers, len(examined), time.monotonic() - began, failure, as_json=args.json, out=out)
    if failure is not None:
        return failure.exit_status
    return 0 if answers and all(one.accepted for one in answers) else DeliveryError.exit_status


def _peer(args: argparse.Namespace, config: Config) -> Peer:
    """Whom to send to; by TLS where that is asked for, or all that this gateway takes."""
    context = tls.with_operator(config) if args.tls else None
    port = config.tls.gateway_port if args.tls and config.tls.gateway == "both" else config.gateway.dicom_port
    if context is None and args.host == _HERE and args.port is None:
        context = tls.to_gateway(config)
    return Peer(args.host, args.port or port, args.aet or config.gateway.aet, args.calling, context)


def _with_progress(
    peer: Peer, outgoing: list[Outgoing], keep: Callable[[Answer], None], *, shown: bool
) -> None:
    """Send behind a progress bar, which a terminal gets and nothing else."""
    if not shown:
        send(peer, outgoing, keep)
        return
    from rich.console import Console  # noqa: PLC0415 - other verbs and pipes need not load it
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("sending", total=len(outgoing))

        def answered(answer: Answer) -> None:
            keep(answer)
            progress.advance(task)

        send(peer, outgoing, answered)


def _report(
    answers: list[Answer],
    total: int,
    seconds: float,
    failure: Exception | None,
    *,
    as_json: bool,
    out: TextIO,
) -> None:
    accepted = sum(one.accepted for one in answers)
    refused = [one for one in answers if not one.accepted]
    if as_json:
        facts = {
            "files": total,
            "accepted": accepted,
            "refused": [
                {"path": str(one.path), "status": one.status, "reason": one.reason} for one in refused
            ],
            "not_sent": total - len(answers),
            "seconds": round(seconds, 3),
            "error": str(failure) if failure else None,
        }
        out.write(json.dumps(facts) + "\n")
        return
    for one in refused:
        out.write(f"not accepted: {one.path}: {one.reason}\n")
    if failure is not None:
        out.write(f"stopped: {failure}; {total - len(answers)} files were not sent\n")
    out.write(f"{accepted} of {total} files accepted in {seconds:.1f} s\n")
