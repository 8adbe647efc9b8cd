"""What each Orthanc is started with: the minimum that loses no image, and each operator's addition that would break it, by name."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ddwd
from ddwd.config.paths import Paths, orthanc_share
from ddwd.config.schema import Config, Forward
from ddwd.core.errors import ConfigError
from ddwd.provisioning import credentials
from ddwd.provisioning.orthanc_config import problems_of, render
from ddwd.provisioning.orthanc_minimum import MINIMUM, STORAGE_SERVER

if TYPE_CHECKING:
    from ddwd.config.schema import NodeName

NODES: tuple[NodeName, ...] = ("gateway", "storage")
# Not taken from render.py: the same minimum, written down a second time, so that neither can drift alone.
_BOTH = {
    "OverwriteInstances": False,
    "MaximumStorageSize": 0,
    "MaximumPatientCount": 0,
    "StorageCompression": False,
    "SyncStorageArea": True,
    "StoreMD5ForAttachments": True,
    "TranscodeDicomProtocol": False,
    "SynchronousCMove": True,
    "SaveJobs": True,
    "DicomCheckCalledAet": True,
    "UnknownSopClassAccepted": True,
    "DeidentifyLogs": True,
    "ExecuteLuaEnabled": False,
    "AuthenticationEnabled": True,
    "RemoteAccessAllowed": False,
}


@dataclass
class Site:
    """One installation's settings, passwords and additions."""

    config: Config
    login: credentials.Credentials

    def tree(self, node: NodeName) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(render(self.config, self.login, node))
        return found

    def add(self, node: NodeName, content: object, name: str = "10-mine.json") -> Path:
        """Leave an addition of the operator; text is written as it is."""
        path = Paths(self.config).additions(node) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    def problems(self, node: NodeName) -> list[str]:
        return [str(problem) for problem in problems_of(self.config, self.login, node)]

    def database(self, **values: object) -> None:
        self.config = replace(self.config, database=replace(self.config.database, **values))  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    config = replace(Config(), credentials_file=tmp_path / "etc" / "credentials.json")
    return Site(config, credentials.generate())


# --- what is rendered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", NODES)
def test_minimum_that_loses_no_image(site: Site, node: NodeName) -> None:
    tree = site.tree(node)
    assert {key: tree.get(key) for key in _BOTH} == _BOTH
    assert tree["JobsHistorySize"] >= 1000
    assert tree["ConcurrentJobs"] >= 4
    assert "IngestTranscoding" not in tree
    assert len(tree["RegisteredUsers"]) >= 2
    assert tree["DicomWeb"]["Enable"] is True


@pytest.mark.parametrize("node", NODES)
def test_every_rule_is_held_by_what_is_shipped(node: NodeName) -> None:
    shipped = json.loads((orthanc_share() / f"{node}.json").read_text())
    flat = [rule for rule in MINIMUM if len(rule.path) == 1]
    assert [rule.path for rule in flat if not rule.holds(shipped.get(rule.path[0]))] == []


def test_settings_reach_the_node_they_are_for(site: Site) -> None:
    site.config = replace(site.config, stable_age=9, forward=Forward("stable", 7, 15.0))
    gateway, storage = site.tree("gateway"), site.tree("storage")
    assert [gateway[key] for key in ("DicomAet", "DicomPort", "HttpPort")] == ["ORTHANC1", 4252, 8042]
    assert [storage[key] for key in ("DicomAet", "DicomPort", "HttpPort")] == ["ORTHANC2", 4243, 8043]
    assert gateway["StorageDirectory"] != storage["StorageDirectory"]
    assert gateway["StableAge"] == storage["StableAge"] == 9
    assert gateway["Ddwd"] == {
        "Mode": "stable",
        "Batch": 7,
        "Doorbell": "/run/ddwd/doorbell/gateway",
        "Paused": "/run/ddwd/extractor/forwarding-paused",
        "Package": str(Path(ddwd.__file__).parents[1]),
        "Conflicts": "/var/lib/ddwd/conflicts/gateway",
        "ReserveBytes": 2 * 1024**3,
        "Volumes": ["/var/lib/ddwd/gateway", "/var/lib/postgresql"],
        "Verdicts": "/run/ddwd/acceptor/verdicts",
    }
    assert [name.rpartition("/")[2] for name in gateway["LuaScripts"]] == ["autoforward.lua"]
    assert storage["LuaScripts"] == []


def test_gateway_sends_to_the_storage_with_a_login_of_its_own(site: Site) -> None:
    server = site.tree("gateway")["DicomWeb"]["Servers"][STORAGE_SERVER]
    users = site.tree("storage")["RegisteredUsers"]
    assert server["Url"] == "http://127.0.0.1:8043/dicom-web/"
    assert users[server["Username"]] == server["Password"]
    assert server["Username"] not in {"admin", "ddwd"}
    assert server["ChunkedTransfers"] is True
    assert server["Timeout"] >= 600
    assert "Servers" not in site.tree("storage")["DicomWeb"]


def test_storage_sends_to_the_scp_as_stored(site: Site) -> None:
    modality = site.tree("storage")["DicomModalities"]["PYTHON_SCP"]
    assert (modality["Host"], modality["Port"]) == ("127.0.0.1", 11112)
    assert modality["AllowTranscoding"] is False
    assert modality["Timeout"] >= 120
    assert site.tree("gateway")["DicomModalities"] == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "scp.example"])
def test_storage_answers_the_extractor_of_this_machine_and_nobody_else(site: Site, host: str) -> None:
    site.config = replace(site.config, scp=replace(site.config.scp, host=host))
    tree = site.tree("storage")
    assert [key for key, value in tree.items() if key.startswith("DicomAlwaysAllow") and value] == []
    assert tree["DicomCheckModalityHost"] is True
    allowed = {
        (name, key.removeprefix("Allow"))
        for name, modality in tree["DicomModalities"].items()
        for key, value in modality.items()
        if key.startswith("Allow") and value
    }
    assert allowed == {("DDWD_EXTRACTOR", "Echo"), ("DDWD_EXTRACTOR", "Move")}
    assert tree["DicomModalities"]["DDWD_EXTRACTOR"]["Host"] == "127.0.0.1"


def test_passwords_are_those_of_the_installation(site: Site) -> None:
    for node in NODES:
        assert site.tree(node)["RegisteredUsers"] == site.login.of(node)
        assert "orthanc" not in site.tree(node)["RegisteredUsers"]


# --- databases --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", NODES)
def test_local_database_by_socket_and_never_a_password(site: Site, node: NodeName) -> None:
    site.database(password="never-written")  # noqa: S106 - the point is that it goes nowhere
    section = site.tree(node)["PostgreSQL"]
    assert section["Host"] == "/var/run/postgresql"
    assert section["Database"] == f"ddwd_{node}"
    assert section["Username"] == f"ddwd-{node}"
    assert section["EnableIndex"] is True
    assert section["EnableStorage"] is False
    assert section["Lock"] is True
    assert "never-written" not in render(site.config, site.login, node)


def test_external_database_gets_the_password(site: Site) -> None:
    site.database(host="db.example", port=5433, password='s3cret "quoted"')  # noqa: S106 - made up
    section = site.tree("gateway")["PostgreSQL"]
    assert (section["Host"], section["Port"]) == ("db.example", 5433)
    assert section["Password"] == site.config.database.password


def test_external_database_without_a_password_leaves_it_to_the_server(site: Site) -> None:
    site.database(host="db.example")
    assert "Password" not in site.tree("gateway")["PostgreSQL"]


@pytest.mark.parametrize("node", NODES)
def test_sqlite_of_ddwd_try_keeps_the_minimum(site: Site, node: NodeName) -> None:
    site.database(engine="sqlite")
    tree = site.tree(node)
    assert "PostgreSQL" not in tree
    assert not any("PostgreSQL" in plugin for plugin in tree["Plugins"])
    assert {key: tree.get(key) for key in _BOTH} == _BOTH


# --- the operator's additions -----------------------------------------------------------------------------------------


def test_addition_is_merged_into_sections_and_later_names_win(site: Site) -> None:
    site.add(
        "gateway", {"DicomModalities": {"CT1": ["CT1", "10.0.0.1", 104]}, "HttpThreadsCount": 10}, "a.json"
    )
    site.add("gateway", {"HttpThreadsCount": 20, "DicomWeb": {"EnableWado": True}}, "b.json")
    site.add("gateway", {"HttpThreadsCount": 30}, "c.json.disabled")
    tree = site.tree("gateway")
    assert tree["HttpThreadsCount"] == 20
    assert "CT1" in tree["DicomModalities"]
    assert tree["DicomWeb"]["EnableWado"] is True
    assert STORAGE_SERVER in tree["DicomWeb"]["Servers"]
    assert "HttpThreadsCount" not in site.tree("storage")


def test_comments_are_allowed_as_orthanc_does_and_strings_are_left_alone(site: Site) -> None:
    text = '// mine\n{ /* a\n comment */ "Description": "http://x/*y*/", "Empty": "" // end\n}\n'
    site.add("storage", text)
    tree = site.tree("storage")
    assert (tree["Description"], tree["Empty"]) == ("http://x/*y*/", "")


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, not value if isinstance(value, bool) else 100) for key, value in _BOTH.items() if key != "RemoteAccessAllowed"),
        ("JobsHistorySize", 10),
        ("JobsHistorySize", True),
        ("ConcurrentJobs", 1),
        ("IngestTranscoding", "1.2.840.10008.1.2.4.80"),
        ("OverwriteInstances", 0),
        ("SyncStorageArea", None),
        ("DicomServerEnabled", False),
        ("LuaScripts", 5),
        ("Plugins", "x"),
    ],
)  # fmt: skip
def test_addition_that_breaks_the_minimum_is_named(
    site: Site, node: NodeName, key: str, value: object
) -> None:
    path = site.add(node, {key: value})
    (problem,) = site.problems(node)
    assert problem.startswith(f"{path}: {key}: must be ")
    with pytest.raises(ConfigError, match=key):
        render(site.config, site.login, node)


@pytest.mark.parametrize(
    ("node", "addition", "key"),
    [
        ("gateway", {"PostgreSQL": {"EnableStorage": True}}, "PostgreSQL.EnableStorage"),
        ("storage", {"PostgreSQL": {"Lock": False}}, "PostgreSQL.Lock"),
        (
            "gateway",
            {"DicomWeb": {"Servers": {"storage": {"Timeout": 5}}}},
            "DicomWeb.Servers.storage.Timeout",
        ),
        (
            "gateway",
            {"DicomWeb": {"Servers": {"storage": {"ChunkedTransfers": False}}}},
            "DicomWeb.Servers.storage.ChunkedTransfers",
        ),
        (
            "storage",
            {"DicomModalities": {"PYTHON_SCP": {"AllowTranscoding": True}}},
            "DicomModalities.PYTHON_SCP.AllowTranscoding",
        ),
        (
            "storage",
            {"DicomModalities": {"PYTHON_SCP": {"Timeout": 1}}},
            "DicomModalities.PYTHON_SCP.Timeout",
        ),
        ("storage", {"DicomModalities": []}, "DicomModalities.PYTHON_SCP.Timeout"),
        ("gateway", {"DicomWeb": None}, "DicomWeb.Servers.storage.Timeout"),
        ("storage", {"DicomModalities": {"PYTHON_SCP": {"Port": 99}}}, "DicomModalities.PYTHON_SCP.Port"),
        ("storage", {"DicomModalities": {"PYTHON_SCP": {"Host": "h"}}}, "DicomModalities.PYTHON_SCP.Host"),
        (
            "gateway",
            {"DicomWeb": {"Servers": {"storage": {"Url": "http://h/"}}}},
            "DicomWeb.Servers.storage.Url",
        ),
        (
            "storage",
            {"DicomModalities": {"DDWD_EXTRACTOR": {"Host": "10.1.2.3"}}},
            "DicomModalities.DDWD_EXTRACTOR",
        ),
        ("gateway", {"RegisteredUsers": {"ddwd": "another"}}, "RegisteredUsers.ddwd"),
        ("storage", {"RegisteredUsers": {"gateway": "another"}}, "RegisteredUsers.gateway"),
        ("gateway", {"RegisteredUsers": {"orthanc": "orthanc"}}, "RegisteredUsers"),
        ("gateway", {"RegisteredUsers": {"ddwd": ""}}, "RegisteredUsers"),
        ("gateway", {"RegisteredUsers": []}, "RegisteredUsers"),
    ],
)
def test_addition_that_breaks_a_section_is_named(
    site: Site, node: NodeName, addition: dict[str, object], key: str
) -> None:
    path = site.add(node, addition)
    assert any(problem.startswith(f"{path}: {key}: ") for problem in site.problems(node))


@pytest.mark.parametrize(
    ("key", "there"),
    [("DicomPort", "storage.dicom_port"), ("StableAge", "stable_age"), ("Ddwd", "forward.mode")],
)
def test_what_ddwd_yaml_decides_is_sent_there(site: Site, key: str, there: str) -> None:
    path = site.add("storage", {key: 1})
    (problem,) = site.problems("storage")
    assert problem.startswith(f"{path}: {key}: is not for this file; set {there}")


@pytest.mark.parametrize("key", ["DicomAlwaysAllowStore", "DicomAlwaysAllowEcho", "DicomCheckModalityHost"])
@pytest.mark.parametrize(
    ("node", "there"), [("gateway", "set senders in ddwd.yaml"), ("storage", "leave it out")]
)
@pytest.mark.parametrize("value", [True, False])
def test_no_addition_decides_who_may_speak(
    site: Site, node: NodeName, key: str, there: str, *, value: bool
) -> None:
    path = site.add(node, {key: value})
    (problem,) = site.problems(node)
    assert problem.startswith(f"{path}: {key}: is not for this file; {there}")


def test_all_problems_at_once_each_with_its_file(site: Site) -> None:
    first = site.add("gateway", {"SaveJobs": False, "Name": "X"}, "a.json")
    second = site.add("gateway", {"OverwriteInstances": True}, "b.json")
    third = site.add("gateway", '{\n"a": 1,\n}', "c.json")
    fourth = site.add("gateway", "[]", "d.json")
    problems = site.problems("gateway")
    assert len(problems) == 5
    assert {problem.partition(": ")[0] for problem in problems} == {
        str(first), str(second), f"{third}:2", f"{fourth}:1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("written", "line", "reason"),
    [
        ('{\n"a": 1,\n}', 2, "trailing comma before the closing bracket (column 7)"),
        ('{"a": [1,\n2, // the last\n\n]}', 2, "trailing comma before the closing bracket (column 2)"),
        ('{"a": 1,}', 1, "trailing comma before the closing bracket (column 8)"),
        ('{"a": 1\n"b": 2}', 2, "Expecting ',' delimiter (column 1)"),
        ('{\n"a": }', 2, "Expecting value (column 6)"),
        ('{"a": 1,\n', 2, "Expecting property name enclosed in double quotes (column 1)"),
    ],
)
def test_json_mistake_is_reported_at_the_line_to_edit(
    site: Site, written: str, line: int, reason: str
) -> None:
    path = site.add("gateway", written)
    (problem,) = site.problems("gateway")
    assert problem.startswith(f"{path}:{line}: syntax: not JSON: {reason};")


def test_addition_that_is_not_text(site: Site) -> None:
    path = site.add("gateway", {})
    path.write_bytes(b"\xff\xfe{}")
    (problem,) = site.problems("gateway")
    assert problem.startswith(f"{path}: syntax: not JSON: 'utf-8' codec can't decode")


def test_addition_that_cannot_be_read(site: Site) -> None:
    path = site.add("gateway", {})
    path.unlink()
    path.mkdir()
    (problem,) = site.problems("gateway")
    assert problem.startswith(f"{path}: file: cannot be read")


# --- the operator's Lua -----------------------------------------------------------------------------------------------


def test_own_script_is_loaded_before_ours(site: Site, tmp_path: Path) -> None:
    script = tmp_path / "mine.lua"
    script.write_text("function OnStableStudy(id) end\n")
    site.add("gateway", {"LuaScripts": [str(script)]})
    found = site.tree("gateway")["LuaScripts"]
    assert found[0] == str(script)
    assert len(found) == 2


@pytest.mark.parametrize(
    "code",
    [
        "function ReceivedInstanceFilter(dicom, origin) return false end",
        "function ReceivedCStoreInstanceFilter(dicom, origin) return 0xA700 end",
        'ReceivedInstanceFilter = require("x")',
        '_G["ReceivedInstanceFilter"] = f',
    ],
)
def test_filter_that_drops_images_is_refused(site: Site, tmp_path: Path, code: str) -> None:
    script = tmp_path / "filter.lua"
    script.write_text(f"-- ours\n{code}\n")
    site.add("storage", {"LuaScripts": [str(script)]})
    (problem,) = site.problems("storage")
    assert problem.startswith(f"{script}: LuaScripts: defines Received")
    assert "remove that function" in problem


def test_callback_through_which_an_image_ends_orthanc_is_refused(site: Site, tmp_path: Path) -> None:
    script = tmp_path / "mine.lua"
    script.write_text("function OnStoredInstance(id, tags) end\n")
    site.add("gateway", {"LuaScripts": [str(script)]})
    (problem,) = site.problems("gateway")
    assert "defines OnStoredInstance, which lets an image with deeply nested sequences end Orthanc" in problem
    assert "remove that function" in problem


def test_script_that_is_not_there_is_named(site: Site, tmp_path: Path) -> None:
    site.add("gateway", {"LuaScripts": [str(tmp_path / "none.lua")]})
    (problem,) = site.problems("gateway")
    assert problem.startswith(f"{tmp_path / 'none.lua'}: LuaScripts: cannot be read")
