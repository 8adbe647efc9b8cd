"""docs/security.md names only what there is: files, tests, settings, units, and a hardened install that is sound."""

from __future__ import annotations

import re
from pathlib import Path

from ddwd.cli.main import verbs
from ddwd.config.loader import load
from ddwd.config.schema import SETTINGS
from ddwd.provisioning import machine_link, tls_proxy
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
    writes_nothing_for_root = {"alert", "config", "echo", "logs", "send"}
    assert {verb.name for verb in verbs()} == tried | writes_nothing_for_root


def _of_unit(path: Path) -> tuple[str, str, set[str], str]:
    """User, further groups, folders that it may write to and whether it can read credentials.json, by the unit file."""
    text = path.read_text(encoding="utf-8")

    def words(key: str) -> list[str]:
        return [
            word.lstrip("-")
            for line in re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)
            for word in line.split()
        ]

    (user,) = words("User") or ["root"]
    assert "DynamicUser=" not in text  # the firewall names no user that is made at each start
    groups = {*words("Group"), *words("SupplementaryGroups")} - {user}
    hidden = {"/etc/ddwd", "/etc/ddwd/credentials.json"} & set(words("InaccessiblePaths"))
    reads = (user == "root" or "ddwd" in {user, *groups}) and not hidden
    return user, ", ".join(sorted(groups)), set(words("ReadWritePaths")), "yes" if reads else "no"


def test_the_table_of_users_is_what_the_units_say() -> None:
    rows = re.findall(
        r"^\| `(ddwd[a-z@-]*)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \| (yes|no) \|$", TEXT, re.MULTILINE
    )
    told = {
        unit: (user.strip("`"), groups.replace("`", "").strip(), set(re.findall(r"`([^`]+)`", writes)), reads)
        for unit, user, groups, writes, reads in rows
    }
    assert told == {path.stem: _of_unit(path) for path in (REPO / "systemd").glob("*.service")}


def test_each_unit_has_a_user_of_its_own_but_those_that_make_published_files_or_the_table() -> None:
    users: dict[str, set[str]] = {}
    for path in (REPO / "systemd").glob("*.service"):
        users.setdefault(_of_unit(path)[0], set()).add(path.stem)
    shared = {user: units for user, units in users.items() if len(units) > 1}
    assert shared == {
        "ddwd": {"ddwd", "ddwd-scp", "ddwd-extractor"},
        "ddwd-firewall": {"ddwd-firewall", "ddwd-operators"},
    }
    made = re.findall(r"^u (\S+)", (REPO / "systemd/ddwd.sysusers").read_text(encoding="utf-8"), re.MULTILINE)
    instances = [*tls_proxy.INSTANCES, machine_link.UNIT.partition("@")[2]]
    wanted = {user.replace("%i", one) for user in users for one in instances if user.startswith("ddwd")}
    assert set(made) == wanted


def test_the_settings_of_a_hardened_install_are_sound(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    file = tmp_path / "ddwd.yaml"
    file.write_text(block, encoding="utf-8")
    config = load(file, {"DDWD_DEFAULTS": "/dev/null"})
    assert config.network.firewall == "true"
    assert config.senders
    assert (config.tls.gateway, config.tls.dicomweb, config.tls.storage, config.tls.scp) == (
        "only",
        True,
        True,
        True,
    )
