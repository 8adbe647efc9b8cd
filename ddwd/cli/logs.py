"""`ddwd logs [PART ...]`: the journals of the portal's parts, merged in the order of time. Writes nothing."""

from argparse import Namespace
from dataclasses import asdict
from typing import TextIO

from ddwd.cli.command import Argument, Command, VerbResult, count, show
from ddwd.config.schema import Config
from ddwd.core.answers import Key, printed
from ddwd.status.formatting import RED, YELLOW, is_coloured, painted, plain, second
from ddwd.status.part_logs import PARTS, LogLine, PartLogs

_LINES = 50
_PART_WIDTH = 11
_ERROR, _WARNING = 3, 4
"""Priorities of syslog(3)."""
_COLOURS = tuple(f"\033[{code}m" for code in (36, 32, 35, 34, 96, 92, 95, 94))


def _run(args: Namespace, _config: Config, out: TextIO) -> int:
    logs = PartLogs(args.parts)
    lines = logs.last(args.lines)
    if args.json and not args.follow:
        return show(VerbResult({"lines": [asdict(one) for one in lines]}, ()), args, out)
    coloured = is_coloured(out)
    for one in lines:
        out.write(_shown(one, as_json=args.json, coloured=coloured))
    if args.follow:
        out.flush()
        for one in logs.follow():
            out.write(_shown(one, as_json=args.json, coloured=coloured))
            out.flush()
    return 0


def _shown(one: LogLine, *, as_json: bool, coloured: bool) -> str:
    if as_json:
        return printed(COMMAND.name, {"lines": [asdict(one)]}, well=True)
    part, message = f"{one.part:<{_PART_WIDTH}}", plain(one.message)
    if coloured:
        names = list(PARTS)
        colour = _COLOURS[(names.index(one.part) if one.part in names else len(names)) % len(_COLOURS)]
        part = painted(part, colour)
        if one.priority <= _WARNING:
            message = painted(message, RED if one.priority <= _ERROR else YELLOW)
    return f"{second(one.at)}  {part} {message}\n"


COMMAND = Command(
    "logs",
    "show the logs of the portal's parts, merged",
    _run,
    (
        Argument(
            "parts",
            nargs="*",
            metavar="PART",
            help="gateway, storage, scp, extractor, ... (default: all of them)",
        ),
        Argument("--follow", "-f", action="store_true", help="show new lines as they come, until Ctrl-C"),
        Argument(
            "--lines",
            "-n",
            type=count,
            default=_LINES,
            metavar="N",
            help="the last N lines (default: %(default)s)",
        ),
    ),
    about="""The parts are the portal's units without ddwd-, and postgresql. What systemd says of a unit is among its lines.
The journal is for root and group systemd-journal. With --follow, --json prints one such object for each line.""",
    answer=(Key("lines", list[LogLine], "the lines, oldest first; `priority` is that of syslog(3)"),),
    exits={0: "done", 64: "there is no such part", 65: "this user may not read the journal"},
)
