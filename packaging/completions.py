"""The completion of ddwd and ddwd-top for bash, zsh and fish, from the parsers of the command line; see manual.py."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from command_line import options, verbs

from ddwd.cli import main as ddwd
from ddwd.status.part_logs import PARTS
from ddwd.tui import main as ddwd_top

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STUDIES, ENTRIES, FILES = "studies", "quarantined", "files"
"""What is offered for a value: studies in flight or just finished, entries of the quarantine, files."""
_KINDS = {"STUDY": STUDIES, "ID": ENTRIES, **dict.fromkeys(("PATH", "DIR", "FILE", "FOLDER"), FILES)}
_LISTS = {"PART": tuple(PARTS), "NODE": ("gateway", "storage", "scp")}


@dataclass(frozen=True)
class Value:
    """What stands for a value: its name, and either a kind or a list of words, or neither."""

    name: str
    kind: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One option; `value` is None for a flag."""

    names: tuple[str, ...]
    help: str
    value: Value | None


@dataclass(frozen=True)
class Line:
    """One verb, an action of one, or a program without verbs: the words that name it, and what may follow."""

    words: tuple[str, ...]
    help: str
    options: tuple[Option, ...] = ()
    values: tuple[Value, ...] = ()
    below: tuple[Line, ...] = ()


_HELP = Option(("-h", "--help"), "show this help message and exit", None)


def line(parser: argparse.ArgumentParser, words: tuple[str, ...] = (), help_text: str = "") -> Line:
    """Read a parser, and those of its verbs."""
    written = [_option(action) for action in options(parser) if action.option_strings]
    values = tuple(_value(action) for action in options(parser) if not action.option_strings)
    below = tuple(line(one.parser, (*words, one.name), one.help) for one in verbs(parser))
    return Line(words, help_text, (_HELP, *written), values, below)


def _option(action: argparse.Action) -> Option:
    text = (action.help or "").replace("%(default)s", str(action.default))
    return Option(tuple(action.option_strings), text, None if action.nargs == 0 else _value(action))


def _value(action: argparse.Action) -> Value:
    name = str(action.metavar or action.dest.upper())
    words = tuple(map(str, action.choices)) if action.choices else _LISTS.get(name, ())
    return Value(name, "" if words else _KINDS.get(name, ""), words)


def _leaves(top: Line) -> Iterator[Line]:
    for one in top.below:
        yield one
        yield from _leaves(one)


def _title(shell: str) -> str:
    return f'# Completion of ddwd and ddwd-top for {shell}. Made by "make manual"; do not edit.'


STUDIES_COMMAND = r"""grep -o '"study_uid": "[0-9.]*"' /run/ddwd/extractor/status.json 2>/dev/null | cut -d '"' -f 4 | sort -u"""
ENTRIES_COMMAND = r"""ddwd quarantine list 2>/dev/null | sed -n 's/^\([0-9a-f]\{8,\}\) .*/\1/p'"""

# --- bash -------------------------------------------------------------------------------------------------------------

_BASH = f"""{_title("bash")}

_ddwd_studies() {{
    {STUDIES_COMMAND}
}}

_ddwd_quarantined() {{
    {ENTRIES_COMMAND}
}}

_ddwd_words() {{
    local word
    COMPREPLY=()
    for word in $1; do
        if [[ $word == "$cur"* ]]; then COMPREPLY+=("$word"); fi
    done
}}

_ddwd_paths() {{
    local word
    COMPREPLY=()
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$cur")
}}
"""


def bash() -> str:
    """The completion for bash."""
    top = line(ddwd.parser())
    lines = [
        _BASH,
        "_ddwd() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}"',
        '    case "${COMP_WORDS[*]:1:COMP_CWORD-1} " in',
        *(text for one in _leaves(top) if one.below for text in _bash_case(f"'{_path(one)} '", one)),
        *(text for one in _leaves(top) if not one.below for text in _bash_case(f"'{_path(one)} '*", one)),
        *_bash_case("' '", top),
        "    *) COMPREPLY=() ;;",
        "    esac",
        "}",
        "",
        "_ddwd_top() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}"',
        f'    _ddwd_words "{" ".join(_long(line(ddwd_top.parser())))}"',
        "}",
        "",
        "complete -F _ddwd ddwd",
        "complete -F _ddwd_top ddwd-top",
    ]
    return "\n".join(lines) + "\n"


def _path(one: Line) -> str:
    return " ".join(one.words)


def _long(one: Line) -> list[str]:
    return [name for option in one.options for name in option.names if name.startswith("--")]


def _bash_case(pattern: str, one: Line) -> list[str]:
    words = [
        *(name for below in one.below for name in below.words[-1:]),
        *(word for value in one.values for word in value.words),
    ]
    kinds = {value.kind for value in one.values}
    lines = [f"    {pattern})", f'        local words="{" ".join([*words, *_long(one)])}"']
    if FILES in kinds:
        lines.append('        if [[ $cur == -* ]]; then _ddwd_words "$words"; else _ddwd_paths; fi')
    else:
        lines += [
            f'        [[ $cur == -* ]] || words="$words $(_ddwd_{kind})"'
            for kind in (STUDIES, ENTRIES)
            if kind in kinds
        ]
        lines.append('        _ddwd_words "$words"')
    return [*lines, "        ;;"]


# --- zsh --------------------------------------------------------------------------------------------------------------

_ZSH = f"""#compdef ddwd ddwd-top
{_title("zsh")}

_ddwd_studies() {{
    local -a found=(${{(f)"$({STUDIES_COMMAND})"}})
    compadd -a found
}}

_ddwd_quarantined() {{
    local -a found=(${{(f)"$({ENTRIES_COMMAND})"}})
    compadd -a found
}}
"""


def zsh() -> str:
    """The completion for zsh."""
    lines = [
        _ZSH,
        "_ddwd() {",
        "    local -a offered",
        "    if [[ $service == ddwd-top ]]; then",
        *_zsh_arguments(line(ddwd_top.parser()), "        "),
        "        return",
        "    fi",
        *_zsh_below(line(ddwd.parser()), "    "),
        "}",
        "",
        '_ddwd "$@"',
    ]
    return "\n".join(lines) + "\n"


def _zsh_below(one: Line, indent: str) -> list[str]:
    """What completes the word after these, and what follows each of its choices."""
    lines = [f"{indent}if ((CURRENT == 2)); then", f"{indent}    offered=("]
    lines += [f"{indent}        {_quoted(f'{below.words[-1]}:{below.help}')}" for below in one.below]
    lines += [f"{indent}    )", f"{indent}    _describe -t commands command offered"]
    lines += [*_zsh_arguments(_options_alone(one), f"{indent}    "), f"{indent}    return", f"{indent}fi"]
    lines += [f"{indent}shift words", f"{indent}((CURRENT--))", f"{indent}case $words[1] in"]
    for below in one.below:
        lines.append(f"{indent}{below.words[-1]})")
        follow = _zsh_below if below.below else _zsh_arguments
        lines += [*follow(below, f"{indent}    "), f"{indent}    ;;"]
    return [*lines, f"{indent}esac"]


def _options_alone(one: Line) -> Line:
    """The options of a line alone."""
    return Line(one.words, one.help, one.options)


def _zsh_arguments(one: Line, indent: str) -> list[str]:
    specs = [spec for option in one.options for spec in _zsh_option(option)]
    specs += [f"*:{value.name}:{_zsh_action(value)}" for value in one.values]
    return [
        f"{indent}_arguments -S : \\",
        *(f"{indent}    {_quoted(spec)} \\" for spec in specs[:-1]),
        f"{indent}    {_quoted(specs[-1])}",
    ]


def _zsh_option(option: Option) -> Iterator[str]:
    text = option.help.translate({ord(one): f"\\{one}" for one in "[]:\\"})
    value = f":{option.value.name}:{_zsh_action(option.value)}" if option.value is not None else ""
    others = f"({' '.join(option.names)})" if len(option.names) > 1 else ""
    for name in option.names:
        yield f"{others}{name}[{text}]{value}"


def _zsh_action(value: Value) -> str:
    if value.words:
        return f"({' '.join(value.words)})"
    return {STUDIES: "_ddwd_studies", ENTRIES: "_ddwd_quarantined", FILES: "_files"}.get(value.kind, " ")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --- fish -------------------------------------------------------------------------------------------------------------

_FISH = f"""{_title("fish")}

function __ddwd_studies
    {STUDIES_COMMAND}
end

function __ddwd_quarantined
    {ENTRIES_COMMAND}
end

# Whether the words before the cursor, options apart, begin with these.
function __ddwd_in
    set -l words (commandline -opc)[2..-1]
    set -l words (string match --invert -- '-*' $words)
    set -l length (count $argv)
    test (count $words) -ge $length; and test "$words[1..$length]" = "$argv"
end

# Whether they are these and no more.
function __ddwd_at
    set -l words (commandline -opc)[2..-1]
    test "$words" = "$argv"
end

complete --command ddwd --no-files
complete --command ddwd-top --no-files"""


def fish() -> str:
    """The completion for fish."""
    top = line(ddwd.parser())
    lines = [_FISH]
    for one in (top, *_leaves(top)):
        path = _path(one)
        inside = f"__ddwd_in {path}" if path and not one.below else f"__ddwd_at {path}".rstrip()
        lines += [
            f"complete --command ddwd --condition '{inside}' {_fish_option(option)}" for option in one.options
        ]
        lines += [
            f"complete --command ddwd --condition '{f'__ddwd_at {path}'.rstrip()}' --arguments {below.words[-1]} --description {_fish_quoted(below.help)}"
            for below in one.below
        ]
        lines += [
            f"complete --command ddwd --condition '{inside}' {text}" for text in _fish_values(one.values)
        ]
    lines += [
        f"complete --command ddwd-top {_fish_option(option)}" for option in line(ddwd_top.parser()).options
    ]
    return "\n".join(lines) + "\n"


def _fish_option(option: Option) -> str:
    names = " ".join(
        f"--long-option {one[2:]}" if one.startswith("--") else f"--short-option {one[1:]}"
        for one in option.names
    )
    value = ""
    if option.value is not None:
        value = " --require-parameter" + "".join(f" {text}" for text in _fish_values((option.value,)))
    return f"{names}{value} --description {_fish_quoted(option.help)}"


def _fish_values(values: tuple[Value, ...]) -> Iterator[str]:
    for value in values:
        if value.words:
            yield f"--arguments '{' '.join(value.words)}'"
        elif value.kind == FILES:
            yield "--force-files"
        elif value.kind:
            yield f"--arguments '(__ddwd_{value.kind})'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


RESULTS: dict[str, Callable[[], str]] = {"ddwd.bash": bash, "ddwd.zsh": zsh, "ddwd.fish": fish}
"""Each file that is made, and how."""
