"""README.md, CONTRIBUTING.md and docs/ say what the code does: settings, verbs, units, paths, events and folder names are held against it."""

from __future__ import annotations

import re
import shlex
import tomllib
from argparse import ArgumentParser, _SubParsersAction
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from ddwd.backup import seal
from ddwd.cli.main import parser
from ddwd.config.loader import CONFIG_FILE, DEFAULTS_FILE
from ddwd.config.paths import Paths
from ddwd.config.schema import SETTINGS, Config, flatten
from ddwd.core import audit
from ddwd.extractor import decision
from tests import readme

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS_PAGE = readme.DOCS / "settings.md"
WATCH_PAGE = readme.DOCS / "watch.md"
FRONT_LINES = 150
EXAMPLES = {
    "/srv/dicom",
    "/etc/ssl/teaching.pem",
    "/etc/ddwd/database.password",
    "/etc/ddwd/db-ca.pem",
    "/etc/ddwd/ledger.password",
    "/etc/systemd/journald.conf",
    "/usr/share/ddwd/sbom.cdx.json",
    "/usr/share/ddwd",
    "/usr/share/ddwd/check-proof.py",
    "/var/lib/ddwd/received_dicom/4711/STUDY",
    "/etc/ddwd/ddwd.yaml.ucf-dist",
    "/etc/ddwd/before-0.2.0",
    "/etc/ddwd/before-VERSION",
    "/var/lib/ddwd/state-newer",
    "/var/lib/ddwd/state-newer/before-0.2.0",
    "/var/lib/ddwd/state/before-VERSION",
}
"""Paths on the pages that the operator chooses, or that Debian, the package or an upgrade makes."""
# Units of Debian that the pages speak of.
DEBIANS_UNITS = {"orthanc", "postgresql"}


def _cells(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names if name)


GIB = 1024**3


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int) and value and value % GIB == 0:
        return f"{value // GIB} GiB"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _unquoted(cell: str) -> str:
    return cell.strip("`")


def test_the_table_of_settings_is_the_one_of_the_code() -> None:
    defaults = flatten(Config())
    wanted = [
        [_cells(key), _cells(*setting.variables), _cells(_default(defaults[key]))]
        for key, setting in SETTINGS.items()
    ]
    assert [row[:3] for row in readme.table(SETTINGS_PAGE, "key")] == wanted


def test_every_setting_has_a_meaning() -> None:
    assert [row[0] for row in readme.table(SETTINGS_PAGE, "key") if not row[3]] == []


def test_every_make_target_named_exists() -> None:
    makefile = (readme.REPO / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = {word for text in readme.code() for word in re.findall(r"^make ([a-z-]+)", text)}
    assert {"demo", "test"} <= named <= targets


def _ddwd_commands() -> list[list[str]]:
    parts = [part for text in readme.code() for part in re.split(r"&&|;", text)]
    ours = dict.fromkeys(part.strip() for part in parts if part.strip().startswith("ddwd "))
    return [shlex.split(part)[1:] for part in ours]


def _verbs(of: ArgumentParser) -> dict[str, ArgumentParser]:
    found = (action.choices for action in of._actions if isinstance(action, _SubParsersAction))
    return dict(next(found, {}))


def _is_only_a_name(words: list[str]) -> bool:
    """`ddwd trace` and `ddwd tls issue` in a sentence, without what they are given."""
    at = parser()
    for word in words:
        if word not in _verbs(at):
            return False
        at = _verbs(at)[word]
    return True


@pytest.mark.parametrize("words", _ddwd_commands(), ids=" ".join)
def test_every_ddwd_command_named_is_understood(words: list[str]) -> None:
    assert _is_only_a_name(words) or parser().parse_args(words).verb == words[0]


def test_every_verb_of_ddwd_is_named() -> None:
    assert {words[0] for words in _ddwd_commands()} == set(_verbs(parser()))


def test_every_unit_named_exists_and_all_of_ours_are_named() -> None:
    ours = {path.stem for path in (readme.REPO / "systemd").glob("*.service")}
    named = {word for text in readme.code() for word in re.findall(r"(?<![\w/.])ddwd-[a-z]+", text)}
    programs = {path.name for path in (readme.REPO / "packaging/launchers").iterdir()}
    pages = {path.stem for path in (readme.REPO / "packaging/manual").glob("*.[1-8]")}
    assert named - {audit.IDENTIFIER} <= {unit.rstrip("@") for unit in ours} | programs | pages
    assert {_unquoted(row[0]) for row in readme.table(WATCH_PAGE, "unit")} == {
        f"{unit}.service" for unit in ours
    }


def test_every_unit_that_systemctl_is_given_exists() -> None:
    ours = {path.stem for path in (readme.REPO / "systemd").glob("*.service")}
    given = {
        unit.removesuffix(".service")
        for text in readme.code()
        for words in re.findall(
            r"systemctl (?:start|stop|restart|status|edit|disable --now) ([a-z -]+)", text
        )
        for unit in words.split()
    }
    assert given <= ours | DEBIANS_UNITS


def _known_paths() -> set[str]:
    config = Config()
    paths = Paths(config)
    ours = [CONFIG_FILE, DEFAULTS_FILE, config.credentials_file, config.data_dir, config.run_dir]
    ours += [paths.output, paths.quarantine, paths.additions("gateway"), paths.additions("storage")]
    ours += [
        config.metrics.textfile,
        config.tls.folder,
        config.link.folder,
        config.inbox.folder,
        paths.hooks / "output",
    ]
    ours += [
        paths.chain,
        paths.chain / "public.pem",
        paths.state,
        paths.studies,
        paths.restoring,
        paths.logins,
        config.credentials_file.parent,
    ]
    ours += [paths.additions("gateway").parent, seal.KEY]
    ours += [paths.commitments, paths.deliveries, paths.conflicts("storage").parent]
    ours += [
        paths.storage_area("gateway"),
        paths.storage_area("storage"),
        paths.rendered("gateway").parent / "NODE/00-ddwd.json",
    ]
    ours += [config.tls.folder / name for name in ("ca.pem", "issued", "issued/CT1.key", "issued/CT1.pem")]
    units = (path.read_text(encoding="utf-8") for path in (readme.REPO / "systemd").glob("*.service"))
    written = {word for unit in units for word in re.findall(r"(?<=[= -])/\S+", unit)}
    rules = (readme.REPO / "packaging" / "debian" / "rules").read_text(encoding="utf-8")
    installed = set(re.findall(r"\$\(ROOT\)(/usr/share/ddwd/[\w./-]+)$", rules, flags=re.MULTILINE))
    return {str(path) for path in ours} | written | installed


def test_every_path_of_the_portal_named_is_one_it_has() -> None:
    prefix = r"(?<![\w.])/(?:etc|run|usr|srv|var/lib)/[\w./*-]*"
    named = {found.rstrip("/") for page in readme.pages() for found in re.findall(prefix, readme.text(page))}
    assert named - EXAMPLES <= _known_paths()


def test_the_front_page_is_short() -> None:
    assert len(readme.text().splitlines()) <= FRONT_LINES


def test_every_file_of_the_clone_named_is_there() -> None:
    links = re.findall(r"\]\((?!#|http)([^)]+)\)", readme.text())
    spans = [text for text in readme.code() if re.fullmatch(r"(docs|etc|systemd|tests)/[\w./-]+", text)]
    assert [name for name in links + spans if not (readme.REPO / name.partition("#")[0]).exists()] == []


def test_every_audit_event_named_is_one() -> None:
    named = {
        name for page in readme.pages() for name in re.findall(r"DDWD_EVENT=([\w-]+)", readme.text(page))
    }
    assert named
    assert named <= {event.value for event in audit.Event}


@pytest.mark.parametrize("page", readme.pages(), ids=lambda page: page.name)
def test_every_setting_that_a_page_names_is_one(page: Path) -> None:
    sections = {key.partition(".")[0] for key in SETTINGS if "." in key}
    keys = {re.split(r"[:= ]", span)[0] for span in readme.code(page)}
    dotted = {key for key in keys if re.fullmatch(r"[a-z_]+\.[a-z_]+", key)}
    named = {key for key in dotted if key.partition(".")[0] in sections}
    assert {key for key in named if not key.endswith((".pem", ".lua", ".py"))} <= set(SETTINGS)


def _words_of(picture: Path) -> set[str]:
    root = ElementTree.parse(picture).getroot()  # noqa: S314 - our own file
    return set(re.findall(r"[\w/-]+", " ".join(root.itertext())))


# --- the map of the code ---------------------------------------------------------------------------------------------

ARCHITECTURE = readme.DOCS / "architecture.md"


def test_the_map_of_the_code_has_every_package_and_module_in_the_order_of_the_layers() -> None:
    """docs/architecture.md, against the tree and the contract of import-linter."""
    rows = re.findall(r"^\| `(\w+)` \|", readme.sections(ARCHITECTURE)["The map"], flags=re.MULTILINE)
    package = readme.REPO / "ddwd"
    there = {path.parent.name for path in package.glob("*/__init__.py")}
    there |= {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert set(rows) == there
    settings = tomllib.loads((readme.REPO / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = settings["importlinter"]["contracts"][0]["layers"]
    depth = {name: number for number, layer in enumerate(layers) for name in re.findall(r"\w+", layer)}
    assert [depth[name] for name in rows] == sorted(depth.values())


def test_the_decision_table_is_that_of_the_code() -> None:
    lines = readme.sections(ARCHITECTURE)["The turn of the extractor"].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    words = {True: "yes", False: "no", None: "any"}
    table = [
        [*(words[one] for one in rule[:4]), rule.stage.value, rule.reason.format(forward="N", retrieve="N")]
        for rule in decision.TABLE
    ]
    assert rows[2:] == table


def test_the_map_of_the_tests_has_every_folder() -> None:
    rows = re.findall(r"^\| `tests/(\w+)` \|", readme.sections(ARCHITECTURE)["The tests"], flags=re.MULTILINE)
    assert set(rows) == {path.name for path in (readme.REPO / "tests").iterdir() if path.is_dir()} - {
        "__pycache__"
    }


@pytest.mark.parametrize("page", readme.pages(), ids=lambda page: page.name)
def test_every_file_of_the_clone_that_a_page_names_is_there(page: Path) -> None:
    pattern = r"(?:ddwd|docs|etc|orthanc|packaging|systemd|tests)/[\w./@-]*\.\w+"
    named = [span for span in readme.code(page) if re.fullmatch(pattern, span)]
    assert [name for name in named if not (readme.REPO / name).exists()] == []


# --- the commands ----------------------------------------------------------------------------------------------------


_PROMPTED = re.compile(
    r"^\s*([#$] (?:ddwd|systemctl|journalctl|apt|runuser|dcmsend|storescu|echoscu|curl|psql)\b.*)",
    re.MULTILINE,
)


@pytest.mark.parametrize("page", readme.pages(), ids=lambda page: page.name)
def test_commands_stand_where_a_test_runs_them(page: Path) -> None:
    """In ```console blocks of their own, not within a list or a block of another kind: see tests/readme.py."""
    fences = re.findall(r"^.*```.*$", readme.text(page), flags=re.MULTILINE)
    assert [
        line for line in fences if not re.fullmatch(r"```(console|yaml|json|text|lua|python)?", line)
    ] == []
    shown = [f"{'#' if one.as_root else '$'} {one.text}" for one in readme.commands(page)]
    assert [line for line in _PROMPTED.findall(readme.text(page)) if line not in shown] == []
    assert [block for _, block in readme.blocks(page, "console") if not re.match(r"[#$] ", block)] == []


def test_what_is_run_elsewhere_stands_on_its_page_and_in_that_test() -> None:
    for (page, beginning), where in readme.ELSEWHERE.items():
        assert any(one.text.startswith(beginning) for one in readme.commands(readme.REPO / page)), beginning
        path, _, name = where.partition("::")
        module = (readme.REPO / path).read_text(encoding="utf-8")
        assert beginning in module, where
        assert not name or f"def {name}(" in module, where


def test_the_picture_shows_the_defaults() -> None:
    config = Config()
    shown = _words_of(readme.REPO / "docs" / "flow.svg")
    nodes = [config.gateway, config.storage]
    facts = [config.scp.aet, config.scp.port, *(one.aet for one in nodes)]
    facts += [port for one in nodes for port in (one.dicom_port, one.http_port)]
    assert {str(fact) for fact in facts} <= shown
