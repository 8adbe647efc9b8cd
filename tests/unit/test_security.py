"""docs/security.md names only what there is: files, tests, settings, units, and a hardened install that is sound."""

from __future__ import annotations

import re
from pathlib import Path

from ddwd.cli.main import VERBS
from ddwd.config.loader import load
from ddwd.config.schema import SETTINGS
from tests.appliance.test_planted_links import CASES, READERS

REPO = Path(__file__).resolve().parents[2]
TEXT = (REPO / "docs/security.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`\n]+)`", TEXT)
SECTIONS = {key.partition(".")[0] for key in SETTINGS if "." in key}


def test_every_file_it_names_is_there() -> None:
    named = re.findall(r"(?<![\w/.])((?:ddwd|tests|docs|packaging|orthanc|systemd)/[\w./@-]*\w)", TEXT)
    assert len(named) > 5
    assert [name for name in named if not (REPO / name).exists()] == []


def test_every_setting_it_names_is_one() -> None:
    keys = {re.split(r"[:= ]", span)[0] for span in SPANS}
    named = {
        key for key in keys if re.fullmatch(r"[a-z_]+\.[a-z_]+", key) and key.partition(".")[0] in SECTIONS
    }
    known = set(SETTINGS) | {"gateway.pem", "storage.pem", "senders.lua"}
    assert {"tls.gateway", "network.firewall", "web.open"} <= named <= known


def test_every_unit_it_names_exists() -> None:
    ours = {path.name for path in (REPO / "systemd").iterdir()}
    named = {span for span in SPANS if re.fullmatch(r"ddwd-[a-z]+@?\.service", span)}
    assert named
    assert named <= ours


def test_the_table_of_privileged_operations_is_what_is_raced_as_root() -> None:
    section = TEXT.partition("## Privileged operations")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE) == list(CASES)


def test_every_verb_is_raced_as_root_or_only_reads() -> None:
    tried = {command.split()[1] for command in (*CASES, *READERS) if command.startswith("ddwd ")}
    writes_nothing_for_root = {"alert", "config", "send"}
    assert {verb.name for verb in VERBS} == tried | writes_nothing_for_root


def test_the_settings_of_a_hardened_install_are_sound(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    file = tmp_path / "ddwd.yaml"
    file.write_text(block, encoding="utf-8")
    config = load(file, {"DDWD_DEFAULTS": "/dev/null"})
    assert config.network.firewall
    assert config.senders
    assert (config.tls.gateway, config.tls.dicomweb, config.tls.storage, config.tls.scp) == (
        "only",
        True,
        True,
        True,
    )
