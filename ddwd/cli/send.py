"""`ddwd send PATH...`: send files and folders to the gateway by C-STORE."""

import time
from argparse import Namespace
from pathlib import Path
from typing import TypedDict

from ddwd.cli import progress
from ddwd.cli.command import Argument, Command, VerbResult, flag, prints
from ddwd.config import tls
from ddwd.config.schema import Config
from ddwd.core.answers import Key
from ddwd.core.errors import DeliveryError, PeerDownError, PeerRefusedError
from ddwd.core.model import SEND_AET
from ddwd.dicom.store_scu import Answer, Outgoing, examine, files, send
from ddwd.dicom.upper_layer import Peer

_HERE = "127.0.0.1"


class _Refused(TypedDict):
    path: str
    status: str
    reason: str


def _run(args: Namespace, config: Config) -> VerbResult:
    examined = [examine(path) for path in files(args.paths)]
    outgoing = [one for one in examined if isinstance(one, Outgoing)]
    answers = [one for one in examined if isinstance(one, Answer)]
    peer = _peer(args, config)
    began, failure = time.monotonic(), None
    with progress.bar("sending", len(outgoing), as_json=args.json) as bar:

        def answered(answer: Answer) -> None:
            answers.append(answer)
            bar.moved()

        try:
            send(peer, outgoing, answered)
        except (PeerDownError, PeerRefusedError) as error:
            failure = error
    return _result(answers, len(examined), time.monotonic() - began, failure)


def _peer(args: Namespace, config: Config) -> Peer:
    """Return the peer; with TLS if --tls is given, or if the gateway of this machine accepts only TLS."""
    context = tls.with_operator(config) if args.tls else None
    port = config.tls.gateway_port if args.tls and config.tls.gateway == "both" else config.gateway.dicom_port
    if context is None and args.host == _HERE and args.port is None:
        context = tls.to_gateway(config)
    return Peer(args.host, args.port or port, args.aet or config.gateway.aet, args.calling, context)


def _result(
    answers: list[Answer], total: int, seconds: float, failure: PeerDownError | PeerRefusedError | None
) -> VerbResult:
    accepted = sum(one.accepted for one in answers)
    refused = [one for one in answers if not one.accepted]
    lines = [f"not accepted: {one.path}: {one.reason}" for one in refused]
    if failure is not None:
        lines.append(f"stopped: {failure}; {total - len(answers)} files were not sent")
    lines.append(f"{accepted} of {total} files accepted in {seconds:.1f} s")
    data = {
        "files": total,
        "accepted": accepted,
        "refused": [{"path": str(one.path), "status": one.status, "reason": one.reason} for one in refused],
        "not_sent": total - len(answers),
        "seconds": round(seconds, 3),
        "error": str(failure) if failure else None,
    }
    if failure is not None:
        return VerbResult(data, lines, failure.exit_status)
    return VerbResult(data, lines, 0 if answers and not refused else DeliveryError.exit_status)


COMMAND = Command(
    "send",
    "send DICOM files or folders to the gateway by C-STORE",
    prints(_run),
    (
        Argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a folder with all below it"),
        Argument("--host", default=_HERE, help="where to send (default: this machine)"),
        Argument("--port", type=int, help="DICOM port (default: the gateway's)"),
        Argument("--aet", help="called AE title (default: the gateway's)"),
        Argument("--calling", default=SEND_AET, help="calling AE title (default: %(default)s)"),
        flag("--tls", "send by TLS, with the operator's certificate"),
    ),
    about="""Files that are not DICOM are listed and not sent. Elements, pixel data and compression stay as
they are.""",
    exits={
        0: "every image was accepted",
        1: "some images were not accepted, or there were none; each is listed with the reason",
        69: "the peer does not answer, or the connection broke; the number of files not sent is shown",
        76: "the association was refused, with the reason",
    },
    answer=(
        Key("files", int, "files that were found"),
        Key("accepted", int, "images that were accepted"),
        Key("refused", list[_Refused], "files that were not accepted"),
        Key("not_sent", int, "files that were not sent, since the association ended"),
        Key("seconds", float, "how long it took"),
        Key("error", str | None, "why the association ended; null: it did not"),
    ),
)
