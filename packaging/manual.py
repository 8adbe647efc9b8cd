"""Make the man pages and the completion of shells from `--help` and the declarations of the settings: `make manual`; a test compares.

The results are committed in packaging/manual/, so that a build needs nothing but them. $1: the folder to write to.
"""

from __future__ import annotations

import argparse
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import completions  # noqa: E402 - the path comes first
from command_line import Verb, options, verbs  # noqa: E402 - as above
from settings_files import Explained, explained  # noqa: E402 - the path comes first

from ddwd.cli import main as ddwd  # noqa: E402 - the path comes first
from ddwd.config.loader import CONFIG_FILE, DEFAULTS_FILE  # noqa: E402
from ddwd.config.schema import SETTINGS  # noqa: E402
from ddwd.core.problem_codes import ENTRIES  # noqa: E402
from ddwd.tui import main as ddwd_top  # noqa: E402

# --- man pages --------------------------------------------------------------------------------------------------------


def roff(text: str) -> str:
    """As roff prints it unchanged."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return "\n".join(f"\\&{line}" if line[:1] in {".", "'"} else line for line in escaped.splitlines())


def synopsis(action: argparse.Action) -> str:
    """Its name or names, with the word for its value."""
    value = action.metavar or action.dest.upper()
    name = ", ".join(action.option_strings)
    if not name:
        return str(value)
    return name if action.nargs == 0 else f"{name} {value}"


def _written(action: argparse.Action) -> str:
    """As it is written on the command line: in brackets where it may be left out."""
    value = str(action.metavar or action.dest.upper())
    if action.option_strings:
        name = action.option_strings[-1]
        return f"[{name}]" if action.nargs == 0 else f"[{name} {value}]"
    return {"?": f"[{value}]", "+": f"{value}..."}.get(str(action.nargs), value)


def _listed(parser: argparse.ArgumentParser) -> list[str]:
    lines = []
    for action in options(parser):
        help_text = (action.help or "").replace("%(default)s", str(action.default))
        lines += [".TP", f".B {roff(synopsis(action))}", roff(help_text)]
    return lines


def _epilog(parser: argparse.ArgumentParser) -> list[str]:
    return [".PP", ".nf", roff(parser.epilog), ".fi"] if parser.epilog else []


def _verb(verb: Verb, before: str) -> list[str]:
    name = f"{before} {verb.name}"
    usage = " ".join([name, *map(_written, options(verb.parser)), *(["ACTION"] if verb.actions else [])])
    lines = [f'.SS "{roff(name)}"', f".B {roff(usage)}", ".PP", roff(verb.help), *_listed(verb.parser)]
    for below in verb.actions:
        lines += [".TP", f".B {roff(f'{name} {below.name}')}", roff(below.help)]
        for action in options(below.parser):
            lines += [".RS", ".TP", f".B {roff(synopsis(action))}", roff(action.help or ""), ".RE"]
    return lines + _epilog(verb.parser)


def _page(name: str, section: int, summary: str, body: list[str]) -> str:
    head = [
        '.\\" Made by "make manual"; do not edit.',
        f'.TH {name.upper()} {section} "" "D-DW-D Portal" "D-DW-D Portal"',
        ".SH NAME",
        f"{roff(name)} \\- {roff(summary)}",
    ]
    return "\n".join([*head, *body]) + "\n"


def ddwd_1() -> str:
    """ddwd(1)."""
    parser = ddwd.parser()
    body = [
        ".SH SYNOPSIS",
        ".B ddwd",
        ".I VERB",
        ".RI [ OPTIONS ]",
        ".SH DESCRIPTION",
        roff(
            "D-DW-D Portal receives DICOM studies by C-STORE on ORTHANC1 (port 4242), carries them by DICOMweb to\n"
            "ORTHANC2, takes them back by C-MOVE and lays them out under /var/lib/ddwd/received_dicom.\n"
            "This is its command line; ddwd-top(1) is its dashboard."
        ),
        ".PP",
        roff(parser.epilog or ""),
        ".SH VERBS",
    ]
    for verb in verbs(parser):
        body += _verb(verb, "ddwd")
    body += [
        ".SH EXAMPLES",
        *_example("ddwd doctor", "is every part as it should be"),
        *_example("ddwd trace A12345", "why is the study with this accession number not there"),
        *_example("ddwd reconcile --dry-run", "what is missing, and at which hop"),
        *_example("journalctl -t ddwd-audit DDWD_STUDY_UID=1.2.3", "what happened to a study"),
        ".SH FILES",
        *_example(str(CONFIG_FILE), "all settings; see ddwd.yaml(5)"),
        *_example(str(DEFAULTS_FILE), "the same as environment variables, which win"),
        *_example("/etc/ddwd/credentials.json", "logins of the two Orthancs, generated at the first start"),
        *_example(
            "/var/lib/ddwd/received_dicom", "PatientID/StudyInstanceUID/SeriesInstanceUID/SOPInstanceUID.dcm"
        ),
        *_example("/var/lib/ddwd/quarantine", "what could not be delivered, with the reason beside it"),
        ".SH SEE ALSO",
        ".BR ddwd-top (1),\n.BR ddwd.yaml (5),\n.BR systemctl (1),\n.BR journalctl (1)",
    ]
    return _page("ddwd", 1, "command line of D-DW-D Portal", body)


def _example(text: str, meaning: str) -> list[str]:
    return [".TP", f".B {roff(text)}", roff(meaning)]


def ddwd_top_1() -> str:
    """ddwd-top(1)."""
    from ddwd.tui.screens import HELP  # noqa: PLC0415 - Textual is loaded for this page only

    parser = ddwd_top.parser()
    body = [
        ".SH SYNOPSIS",
        ".B ddwd\\-top",
        ".RI [ OPTIONS ]",
        ".SH DESCRIPTION",
        roff(parser.description or ""),
        *_listed(parser),
        ".SH THE SCREEN",
        ".nf",
        roff(HELP.replace("\u25cf ", "")),
        ".fi",
        ".SH NOTES",
        ".nf",
        roff(parser.epilog or ""),
        ".fi",
        ".SH SEE ALSO",
        ".BR ddwd (1),\n.BR ddwd.yaml (5)",
    ]
    return _page("ddwd-top", 1, "dashboard of D-DW-D Portal", body)


def ddwd_yaml_5() -> str:
    """ddwd.yaml(5), from the declarations of the settings."""
    body = [
        ".SH SYNOPSIS",
        f".I {CONFIG_FILE}",
        ".SH DESCRIPTION",
        roff(
            f"All settings of D-DW-D Portal, in YAML. Those with a variable can be set in {DEFAULTS_FILE} or in the\n"
            "environment instead, which win. A key that is left out has its default. ddwd config check names every\n"
            "mistake with its line; ddwd config show tells each value and where it comes from. After a change:\n"
            "systemctl restart ddwd."
        ),
        ".SH SETTINGS",
    ]
    for one in explained():
        if one.key in SETTINGS:
            body += _setting(one)
        else:
            body += [f'.SS "{roff(one.key)}"', *_prose(one.said)]
    body += [".SH SEE ALSO", ".BR ddwd (1)"]
    return _page("ddwd.yaml", 5, "settings of D-DW-D Portal", body)


def ddwd_problems_7() -> str:
    """ddwd-problems(7), from the table of all codes."""
    body = [
        ".SH DESCRIPTION",
        roff(
            "Every problem of D-DW-D Portal has a code, which is the same in ddwd status, ddwd-top, ddwd doctor, alerts,\n"
            "metrics (ddwd_problems) and JSON. What is BROKEN keeps images from where they should be, or may soon, and\n"
            "ends the commands with status 1. A WARN asks for attention. A NOTE is shown by ddwd doctor alone.\n"
            "What a problem explains is shown below it, after so:"
        ),
        ".SH CODES",
    ]
    for code, entry in ENTRIES.items():
        body += [".TP", f".B {roff(code)} ({entry.severity}, {roff(entry.part)})"]
        body += [roff(_plain(entry.meaning)), ".br", roff(f"It shows: {_plain(entry.shows)}")]
        body += [".br", roff(f"To do: {_plain(entry.to_do)}")]
    body += [".SH SEE ALSO", ".BR ddwd (1),\n.BR ddwd-top (1)"]
    return _page("ddwd-problems", 7, "problems of D-DW-D Portal: what they mean and what to do", body)


def _plain(text: str) -> str:
    return text.replace("`", "")


def _setting(one: Explained) -> list[str]:
    variables = ", ".join(SETTINGS[one.key].variables)
    notes = [f"Default: {one.value}." if one.value else "No default."]
    notes += [f"Variable: {variables}."] if variables else []
    return [".TP", f".B {roff(one.key)}", *_prose([*one.said, *notes])]


def prose(lines: list[str]) -> Iterator[tuple[bool, str]]:
    """Comment lines as running text (False); those that are indented are an example (True), and stay as they are."""
    for is_example, block in groupby(lines, key=lambda line: line.startswith("  ")):
        yield is_example, ("\n" if is_example else " ").join(block)


def _prose(lines: list[str]) -> list[str]:
    body = list[str]()
    for is_example, text in prose(lines):
        body += [".nf", roff(text), ".fi"] if is_example else [roff(text)]
    return body


RESULTS = {
    "ddwd.1": ddwd_1,
    "ddwd-top.1": ddwd_top_1,
    "ddwd.yaml.5": ddwd_yaml_5,
    "ddwd-problems.7": ddwd_problems_7,
    **completions.RESULTS,
}


def write(folder: Path) -> None:
    """Write all of them."""
    for name, make in RESULTS.items():
        (folder / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
