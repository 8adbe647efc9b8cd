"""Load the settings: defaults, ddwd.yaml, /etc/default/ddwd and the environment become one frozen Config.

Every process reads them at start; the operator is the only writer of the files. A later source wins: defaults, the YAML file, the
defaults file, the environment. One run collects and reports all problems.
"""

from __future__ import annotations

import difflib
import os
import shlex
from dataclasses import fields, is_dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ddwd.config.checks import contradictions
from ddwd.config.parsers import DEFAULT, Many, Raw, Source, WrongValueError
from ddwd.config.schema import SETTINGS, VARIABLES, Config, Loaded, flatten
from ddwd.config.yaml_file import Sections, Written, YamlFile, not_yaml
from ddwd.core.errors import AccessProblem, ConfigError, ConfigProblem

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_FILE = Path("/etc/ddwd/ddwd.yaml")
DEFAULTS_FILE = Path("/etc/default/ddwd")
READ_HINT = "run it with sudo, or as a member of group ddwd (adduser NAME ddwd, then log in again)"


def settings_files() -> tuple[Path, Path]:
    """Return the YAML file and the file of the variables, as the loader reads them."""
    return Path(os.environ.get("DDWD_CONFIG") or CONFIG_FILE), DEFAULTS_FILE


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read every source and return the settings; raises ConfigError with all problems at once.

    `path` is the YAML file (else $DDWD_CONFIG, else /etc/ddwd/ddwd.yaml, which may be absent).
    """
    return load_with_sources(path, environ).config


def load_with_sources(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Do as `load`, and return for each key where its value was written."""
    environ = os.environ if environ is None else environ
    problems: list[ConfigProblem] = []
    named = path or (Path(environ["DDWD_CONFIG"]) if environ.get("DDWD_CONFIG") else None)
    raws = _read_yaml(named or CONFIG_FILE, must_exist=named is not None, problems=problems)
    assigned = _read_defaults(Path(environ.get("DDWD_DEFAULTS") or DEFAULTS_FILE), problems)
    raws |= _of_variables(assigned) | _of_variables(_of_environment(environ, assigned))
    if all(isinstance(problem, AccessProblem) for problem in problems):
        del problems[1:]  # one line is enough for a user who may read neither file
    loaded, refused = _build(raws)
    problems += chain.from_iterable(refused.values())
    problems += contradictions(loaded, refused)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: (problem.source, problem.line or 0)))
    return loaded


def _read_yaml(path: Path, *, must_exist: bool, problems: list[ConfigProblem]) -> dict[str, Written]:
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        if must_exist or not isinstance(error, FileNotFoundError):
            problems.append(_unreadable(path, error))
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(not_yaml(path, error))
        return {}
    if not text.strip():  # as a full disk leaves it, and not somebody who wants every default
        instead = "put its content back, or remove the file: each setting has a default"
        problems.append(ConfigProblem(str(path), None, "file", "is empty", instead))
    return YamlFile(path, problems).read(root)


def _unreadable(path: Path, error: OSError) -> ConfigProblem:
    what = f"cannot be read ({error.strerror or error})"
    if isinstance(error, PermissionError):
        return AccessProblem(str(path), None, "file", what, READ_HINT)
    return ConfigProblem(str(path), None, "file", what, "put the file back, or correct the path")


def _read_defaults(path: Path, problems: list[ConfigProblem]) -> dict[str, Raw]:
    """Read the KEY=VALUE lines of /etc/default/ddwd; return variable -> value."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        cause = error if isinstance(error, OSError) else OSError("not UTF-8 text")
        problems.append(_unreadable(path, cause))
        return {}
    found: dict[str, Raw] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith(("#", ";")):
            _read_assignment(line, Source(str(path), number), found, problems)
    return found


def _read_assignment(line: str, source: Source, found: dict[str, Raw], problems: list[ConfigProblem]) -> None:
    name, equals, written = line.strip().removeprefix("export ").partition("=")
    name = name.strip()
    try:
        words = shlex.split(written, comments=True)
    except ValueError:
        words = ["", ""]
    if not equals or len(words) > 1:
        problems.append(ConfigProblem(*source, name or "line", "is not NAME=VALUE", 'write NAME="VALUE"'))
    elif name in VARIABLES:
        if words and words[0]:
            found[name] = Raw(words[0], True, source, name)
    elif near := difflib.get_close_matches(name.upper(), list(VARIABLES), n=1, cutoff=0.8):
        problems.append(ConfigProblem(*source, name, "is not a known variable", f"write {near[0]}"))


def _of_variables(assigned: Mapping[str, Raw]) -> dict[str, Raw]:
    """Return key -> value; of two variables for one key the one that is declared first wins."""
    return {VARIABLES[name]: assigned[name] for name in reversed(list(VARIABLES)) if name in assigned}


def _of_environment(environ: Mapping[str, str], assigned: Mapping[str, Raw]) -> dict[str, Raw]:
    """Return variable -> value; a variable that systemd took from the defaults file keeps that file as its source."""
    raws = {}
    for name in VARIABLES:
        if text := environ.get(name, ""):
            same = name in assigned and assigned[name].text == text
            raws[name] = assigned[name] if same else Raw(text, True, Source("environment"), name)
    return raws


def _build(raws: Mapping[str, Written]) -> tuple[Loaded, dict[str, list[ConfigProblem]]]:
    """Parse every value; one that is refused becomes a ConfigProblem under its key, and its default stays."""
    values = flatten(Config())
    sources = dict.fromkeys(SETTINGS, DEFAULT)
    refused: dict[str, list[ConfigProblem]] = {}
    for key, raw in raws.items():
        if raw is None:
            values[key] = None
        elif isinstance(raw, Sections):
            values[key], sources[key] = raw.entries, raw.source
        else:
            sources[key] = (
                Source(f"environment {raw.variable}") if raw.source.name == "environment" else raw.source
            )
            parsed, problems = _parsed(key, raw)
            if problems:
                refused[key] = problems
            else:
                values[key] = parsed if isinstance(raw, Many) else parsed[0]
    return Loaded(_assemble(Config(), "", values), sources), refused


def _parsed(key: str, written: Raw | Many) -> tuple[tuple[object, ...], list[ConfigProblem]]:
    """Return each value of that key, and a ConfigProblem for each that is refused."""
    values, problems = [], []
    for raw in written.entries if isinstance(written, Many) else (written,):
        try:
            values.append(SETTINGS[key].parse(raw))
        except WrongValueError as error:
            problems.append(ConfigProblem(*raw.source, raw.variable or key, error.what, error.instead))
    return tuple(values), problems


def _assemble(template: Any, prefix: str, values: Mapping[str, object]) -> Any:
    """Rebuild a dataclass of settings (and the sections in it) from the flat table."""
    arguments = {}
    for item in fields(template):
        key, old = f"{prefix}{item.name}", getattr(template, item.name)
        nested = is_dataclass(old)
        arguments[item.name] = _assemble(old, f"{key}.", values) if nested else values.get(key, old)
    return type(template)(**arguments)
