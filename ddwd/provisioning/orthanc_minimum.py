"""Minimum configuration of both Orthancs, below which images are lost, changed or silently dropped: the rules, and the check."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddwd.config.paths import orthanc_share
from ddwd.core.errors import ConfigProblem
from ddwd.core.model import EXTRACTOR_AET
from ddwd.provisioning import destinations, machine_link

if TYPE_CHECKING:
    from ddwd.config.schema import Config
    from ddwd.config.schema_network import NodeName

Json = dict[str, Any]

STORAGE_SERVER = "storage"
"""Name of the storage among the gateway's DICOMweb servers; autoforward.lua and the extractor POST to it."""
LISTS = frozenset({"LuaScripts", "Plugins"})


class Rendered(NamedTuple):
    """One Orthanc's whole configuration, which file each top-level key came from, and what it was before the additions."""

    node: NodeName
    tree: Json
    origins: Mapping[str, str]
    base: Json

    def problem(self, path: tuple[str, ...], what: str, instead: str) -> ConfigProblem:
        """Return a problem with the value at that path; it names the file that the value came from."""
        origin = self.origins.get(path[0], str(orthanc_share() / f"{self.node}.json"))
        return ConfigProblem(origin, None, ".".join(path), what, instead)


class Requirement(NamedTuple):
    """One rule of the minimum configuration: the path of the value, the condition, and how to write it."""

    path: tuple[str, ...]
    holds: Callable[[Any], bool]
    instead: str


def _exactly(*path: str, value: bool | int) -> Requirement:
    return Requirement(path, lambda found: type(found) is type(value) and found == value, json.dumps(value))


def _at_least(*path: str, low: int) -> Requirement:
    return Requirement(path, lambda found: type(found) is int and found >= low, f"{low} or more")


MINIMUM: tuple[Requirement, ...] = (
    _exactly("OverwriteInstances", value=False),
    _exactly("MaximumStorageSize", value=0),
    _exactly("MaximumPatientCount", value=0),
    _exactly("StorageCompression", value=False),
    _exactly("SyncStorageArea", value=True),
    _exactly("StoreMD5ForAttachments", value=True),
    _exactly("TranscodeDicomProtocol", value=False),
    _exactly("SynchronousCMove", value=True),
    _exactly("SaveJobs", value=True),
    _exactly("DicomCheckCalledAet", value=True),
    _exactly("UnknownSopClassAccepted", value=True),
    _exactly("DeidentifyLogs", value=True),
    _exactly("ExecuteLuaEnabled", value=False),
    _exactly("AuthenticationEnabled", value=True),
    _at_least("JobsHistorySize", low=1000),
    _at_least("ConcurrentJobs", low=4),
    Requirement(("IngestTranscoding",), lambda found: found is None, "nothing: remove the key"),
    Requirement(("DicomServerEnabled",), lambda found: found in (None, True), "true"),
    Requirement(("DicomWeb", "Enable"), lambda found: found in (None, True), "true"),
)
"""What both Orthancs must have so that no image is lost, changed or silently dropped."""

_UNSAFE = re.compile(r"\b(Received(?:CStore)?InstanceFilter|OnStoredInstance)\b")
_DANGERS = {"OnStoredInstance": "which lets an image with deeply nested sequences end Orthanc"}


def _rules(config: Config, node: NodeName) -> Iterator[Requirement]:
    yield from MINIMUM
    for key in sorted(LISTS):
        yield Requirement((key,), lambda found: isinstance(found, list), "a list of files")
    if node == "gateway":
        server = ("DicomWeb", "Servers", STORAGE_SERVER)
        yield _exactly(*server, "ChunkedTransfers", value=True)
        yield _at_least(*server, "Timeout", low=600)
    else:
        for receiver in machine_link.receivers(config):
            yield _exactly("DicomModalities", receiver.aet, "AllowTranscoding", value=False)
            yield _at_least("DicomModalities", receiver.aet, "Timeout", low=120)
    if config.database.engine == "postgresql":
        for key, value in (("EnableIndex", True), ("EnableStorage", False), ("Lock", True)):
            yield _exactly("PostgreSQL", key, value=value)


def lint(rendered: Rendered, config: Config) -> list[ConfigProblem]:
    """Check a whole configuration against the minimum; each ConfigProblem names the file that broke it."""
    problems = [
        rendered.problem(rule.path, f"must be {rule.instead}, lest images are lost", f"write {rule.instead}")
        for rule in _rules(config, rendered.node)
        if not rule.holds(value_at(rendered.tree, rule.path))
    ]
    # the values by which the parts of the portal reach each other
    problems += [
        rendered.problem(path, "is the portal's own", "leave it out: ddwd.yaml decides it")
        for path in _own_paths(config, rendered.node)
        if value_at(rendered.tree, path) != value_at(rendered.base, path)
    ]
    users = rendered.tree.get("RegisteredUsers")
    if not isinstance(users, dict) or not users.get("ddwd") or users.get("orthanc") == "orthanc":
        what = "has no login for the portal, or has Orthanc's default password"
        instead = "add users of your own, with real passwords"
        problems.append(rendered.problem(("RegisteredUsers",), what, instead))
    return problems + _lint_scripts(rendered.tree)


def _own_paths(config: Config, node: NodeName) -> list[tuple[str, ...]]:
    """Return the paths of the values that no addition may change."""
    keys = ("Enabled", "RemoteCertificateRequired", "PrivateKey")
    own = [("RegisteredUsers", "ddwd"), *((f"DicomTls{key}",) for key in keys)]
    if node == "gateway":
        servers = ("DicomWeb", "Servers")
        own += [(*servers, STORAGE_SERVER, key) for key in ("Url", "Username", "Password")]
        own += [(*servers, name) for name in destinations.servers(config.destinations)]
        own += [("DicomModalities", name) for name in destinations.modalities(config.destinations, {})]
    else:
        own += [("RegisteredUsers", "gateway"), ("DicomModalities", EXTRACTOR_AET)]
        for receiver in machine_link.receivers(config):
            own += [("DicomModalities", receiver.aet, key) for key in ("AET", "Host", "Port", "UseDicomTls")]
    return own


def value_at(tree: Json, path: tuple[str, ...]) -> object:
    """Return the value at that path of keys; None if there is none."""
    value: object = tree
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _lint_scripts(tree: Json) -> list[ConfigProblem]:
    """Check the scripts: no reception filter, which discards images and answers success, and no callback that ends Orthanc."""
    problems = []
    scripts = tree.get("LuaScripts")
    for script in scripts if isinstance(scripts, list) else []:
        path = Path(str(script))
        try:
            found = _UNSAFE.search(path.read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            what, instead = f"cannot be read ({error.strerror})", "put the script there, readable for all"
            problems.append(ConfigProblem(str(path), None, "LuaScripts", what, instead))
            continue
        if found:
            danger = _DANGERS.get(found[1], "which drops images and answers success")
            what = f"defines {found[1]}, {danger}"
            problems.append(ConfigProblem(str(path), None, "LuaScripts", what, "remove that function"))
    return problems
