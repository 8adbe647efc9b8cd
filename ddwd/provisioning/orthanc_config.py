"""From Config to the one JSON file each Orthanc is started with, held against the minimum that loses no image.

Read: orthanc/{gateway,storage}.json (fixed part), Config, the credentials, the operator's additions. Written by
provision (and `ddwd try`) to Paths.rendered. Additions are merged here, not by Orthanc, which refuses a section that
stands in two files; whatever would break the minimum configuration is a Problem and nothing is rendered.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddwd.config import tls
from ddwd.config.paths import Paths, orthanc_share
from ddwd.config.routing import JOBS_ELSEWHERE
from ddwd.core.errors import ConfigError, Problem
from ddwd.core.model import EXTRACTOR_AET, VIEWER
from ddwd.provisioning import databases, destinations, machine_link, sender_acl

if TYPE_CHECKING:
    from ddwd.config.loader import Config, NodeName
    from ddwd.provisioning.credentials import Credentials

Json = dict[str, Any]

RENDERED_NAME = "00-ddwd.json"
PLUGIN_DIR = Path("/usr/share/orthanc/plugins")
PYTHON_PLUGIN = "libOrthancPython.so"
PLUGIN = "plugin.py"
"""Loaded by the Python plugin in both Orthancs; without it other content under a known UID would be dropped with Success."""
SOCKET_DIR = "/var/run/postgresql"
ROUTES = "routes.lua"
"""Loaded in the gateway where there are rules; reads the table that ddwd-provision writes."""
STORAGE_SERVER = "storage"
"""Name of the storage among the gateway's DICOMweb servers; autoforward.lua and the extractor POST to it."""
_STOW_SECONDS = 3600
_SCP_SECONDS = 300
_INDEX_CONNECTIONS = 8
_LISTS = frozenset({"LuaScripts", "Plugins"})


KEY_OF_UNIT = "/run/credentials/ddwd-{unit}.service/" + tls.CREDENTIAL
"""Where a unit reads its key: LoadCredential= of a drop-in that ddwd-provision writes."""


def base(config: Config, credentials: Credentials, node: NodeName, *, door: bool = True) -> Json:
    """The fixed part of that Orthanc's configuration with everything that Config decides filled in."""
    share = orthanc_share()
    rendered: Json = json.loads((share / f"{node}.json").read_text(encoding="utf-8"))
    own = config.node(node)
    area = str(Paths(config).storage_area(node))
    rendered |= {
        "Name": own.aet,
        "DicomAet": own.aet,
        "DicomPort": own.dicom_port,
        "HttpPort": own.http_port,
        "StorageDirectory": area,
        "IndexDirectory": area,
        "StableAge": config.stable_age,
        "RegisteredUsers": credentials.of(node),
        "Plugins": _plugins(config, door=door),
        "LuaScripts": [str(share / name) for name in _scripts(config, node)],
        "Ddwd": _settings_for_scripts(config, node),
    }
    if door:
        rendered["PythonScript"] = str(share / PLUGIN)
    else:
        del rendered["RegisteredUsers"][VIEWER]  # nobody would hold it to looking
    if node == "gateway":
        rendered |= sender_acl.orthanc(config)
        rendered["ConcurrentJobs"] += JOBS_ELSEWHERE * len(config.destinations)
    if config.database.engine == "postgresql":
        rendered["PostgreSQL"] = _postgresql(config, node)
    rendered |= _dicom_tls(config, node)
    _add_peer(rendered, config, credentials, node)
    return rendered


def _dicom_tls(config: Config, node: NodeName) -> Json:
    """DIMSE by TLS: as a server where the settings have it, and as what ORTHANC2 shows the SCP."""
    serves = config.tls.storage if node == "storage" else config.tls.gateway == "only"
    asks = config.tls.scp if node == "storage" else tls.sends_elsewhere(config)
    if not serves and not asks:
        return {}
    trusted = tls.authority(config) if node == "storage" else senders_bundle(config)
    return {
        "DicomTlsEnabled": serves,
        "DicomTlsCertificate": str(tls.files(config, node).certificate),
        "DicomTlsPrivateKey": KEY_OF_UNIT.format(unit=node),
        "DicomTlsTrustedCertificates": str(trusted),
        "DicomTlsRemoteCertificateRequired": True,
        "DicomTlsMinimumProtocolVersion": 0,  # the profile of BCP 195: TLS 1.2 or later
    }


def senders_bundle(config: Config) -> Path:
    """The authorities of the modalities and of destinations by DIMSE, and the portal's own for the self test; ddwd-provision writes it."""
    return Paths(config).tls / "senders.pem"


def _scripts(config: Config, node: NodeName) -> tuple[str, ...]:
    if node == "storage":
        return ("doorbell.lua",)
    rules = (ROUTES,) if config.routes else ()
    return ("doorbell.lua", *rules, "autoforward.lua", *((sender_acl.SCRIPT,) if config.senders else ()))


def _plugins(config: Config, *, door: bool) -> list[str]:
    names = ["libOrthancDicomWeb.so"]
    if door:
        names.append(PYTHON_PLUGIN)
    if config.database.engine == "postgresql":
        names.append("libOrthancPostgreSQLIndex.so")
    return [str(PLUGIN_DIR / name) for name in names]


def _settings_for_scripts(config: Config, node: NodeName) -> Json:
    """What the scripts inside Orthanc read: Lua the first six, the door the rest."""
    paths = Paths(config)
    listed: Json = {}
    if node == "gateway" and config.senders:
        listed["Senders"] = sender_acl.rules(config.senders)
    if node == "gateway" and config.routes:
        listed["Routes"] = str(paths.routes)
    if node == "gateway" and config.commitment.modalities:
        listed["CommitmentQueue"] = str(paths.commitments)
    return listed | {
        "Mode": config.forward.mode,
        "Batch": config.forward.batch,
        "Doorbell": str(paths.doorbell(node)),
        "Paused": str(paths.forwarding_paused),
        "Package": str(Path(__file__).resolve().parents[2]),
        "Conflicts": str(paths.conflicts(node)),
        "ReserveBytes": config.disk.reserve,
        "Volumes": [str(path) for path in (paths.storage_area(node), *paths.database_area())],
    }


def _postgresql(config: Config, node: NodeName) -> Json:
    """The index; locally libpq takes the folder of the Unix socket for a host, and peer authentication."""
    database = config.database
    section: Json = {
        "EnableIndex": True,
        "EnableStorage": False,
        "Lock": True,
        "Host": database.host or SOCKET_DIR,
        "Port": database.port,
        "Database": database.name_for(node),
        "Username": database.user_for(node),
        "IndexConnectionsCount": _INDEX_CONNECTIONS,
        "MaximumConnectionRetries": 10,
        "ConnectionRetryInterval": 5,
    }
    if database.url is not None:
        section["ConnectionUri"] = databases.address(config, node, databases.password(config))
    elif database.host is not None and (password := databases.password(config)) is not None:
        section["Password"] = password
    return section


def _add_peer(rendered: Json, config: Config, credentials: Credentials, node: NodeName) -> None:
    """The gateway knows the storage by DICOMweb; the storage sends to the SCP, and answers an extractor that calls from this machine alone."""
    if node == "gateway":
        user, password = credentials.login("storage", "gateway")
        server: Json = {
            "Url": f"{config.storage.url}/dicom-web/",
            "Username": user,
            "Password": password,
            "ChunkedTransfers": True,
            "Timeout": _STOW_SECONDS,
        }
        if config.tls.dicomweb:
            server["Url"] = f"https://127.0.0.1:{config.tls.dicomweb_port}/dicom-web/"
            server["CertificateFile"] = str(tls.files(config, "gateway").certificate)
            server["CertificateKeyFile"] = KEY_OF_UNIT.format(unit="gateway")
            rendered["HttpsVerifyPeers"] = True
            rendered["HttpsCACertificates"] = str(tls.authority(config))
        rendered["DicomWeb"]["Servers"] = {
            STORAGE_SERVER: server,
            **destinations.servers(config.destinations),
        }
        rendered["DicomModalities"] |= destinations.modalities(
            config.destinations, rendered["DicomModalities"]
        )
        if destinations.authorities(config):
            rendered["HttpsVerifyPeers"] = True
            rendered["HttpsCACertificates"] = str(destinations.bundle(config))
        return
    rendered["DicomModalities"] |= {
        one.aet: {
            "AET": one.aet,
            "Host": one.host,
            "Port": one.port,
            **sender_acl.allowing(),
            "AllowTranscoding": False,
            "Timeout": _SCP_SECONDS,
            "UseDicomTls": config.tls.scp,
        }
        for one in machine_link.receivers(config)
    } | {
        EXTRACTOR_AET: {
            "AET": EXTRACTOR_AET,
            "Host": "127.0.0.1",
            "Port": config.scp.port,
            **sender_acl.allowing("Echo", "Move"),
        },
    }


class Rendered(NamedTuple):
    """One Orthanc's whole configuration, which file each top-level key came from, and what it was before the additions."""

    tree: Json
    origins: Mapping[str, str]
    base: Json


def render(config: Config, credentials: Credentials, node: NodeName, *, door: bool = True) -> str:
    """Return the JSON text for that Orthanc; raises ConfigError with every addition that cannot be.

    Without `door` Orthanc's Python plugin is not asked for: a trial on a host that has none.
    """
    rendered, problems = merged(config, credentials, node, door=door)
    problems += lint(rendered, config, node)
    if problems:
        raise ConfigError(problems)
    return json.dumps(rendered.tree, indent=2) + "\n"


def problems_of(config: Config, credentials: Credentials, node: NodeName) -> list[Problem]:
    """Everything wrong with that Orthanc's additions, for `ddwd config check`."""
    rendered, problems = merged(config, credentials, node)
    return problems + lint(rendered, config, node)


def merged(
    config: Config, credentials: Credentials, node: NodeName, *, door: bool = True
) -> tuple[Rendered, list[Problem]]:
    """Lay the operator's additions over the base, in the order of their names."""
    ours = base(config, credentials, node, door=door)
    tree = copy.deepcopy(ours)
    origins: dict[str, str] = {}
    problems: list[Problem] = []
    for path in sorted(Paths(config).additions(node).glob("*.json")):
        addition = read_addition(path, problems)
        problems += _refused_keys(path, addition, node)
        _merge(tree, addition)
        origins |= dict.fromkeys(addition, str(path))
    return Rendered(tree, origins, ours), problems


def read_addition(path: Path, problems: list[Problem]) -> Json:
    """One of the operator's files; what is wrong with it is added to `problems`, and nothing of it taken then."""
    try:
        found = json.loads(_without_comments(path.read_text(encoding="utf-8")))
    except OSError as error:
        problems.append(
            Problem(str(path), None, "file", f"cannot be read ({error.strerror})", "make it readable")
        )
        return {}
    except json.JSONDecodeError as error:
        line, reason = _json_mistake(error)
        problems.append(Problem(str(path), line, "syntax", f"not JSON: {reason}", "write one JSON object"))
        return {}
    except ValueError as error:
        problems.append(Problem(str(path), None, "syntax", f"not JSON: {error}", "write one JSON object"))
        return {}
    if isinstance(found, dict):
        return found
    problems.append(Problem(str(path), 1, "syntax", "is not a JSON object", "write { ... } around it"))
    return {}


def _json_mistake(error: json.JSONDecodeError) -> tuple[int, str]:
    """Return the line to edit and the reason, the same with every Python.

    Python 3.13 places a trailing comma at the comma; earlier versions place it at the bracket, which may be lines below.
    """
    text = error.doc
    before = text[: error.pos].rstrip()
    if error.pos < len(text) and text[error.pos] in "]}" and before.endswith(","):
        comma = len(before) - 1
    elif re.match(r",\s*[]}]", text[error.pos :]):
        comma = error.pos
    else:
        return error.lineno, f"{error.msg} (column {error.colno})"
    column = comma - text.rfind("\n", 0, comma)
    return text.count("\n", 0, comma) + 1, f"trailing comma before the closing bracket (column {column})"


def _without_comments(text: str) -> str:
    """Blank out // and /* */ comments, which Orthanc allows, leaving strings and line numbers as they are."""
    pattern = r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/'
    return re.sub(pattern, lambda m: m.group(1) or re.sub(r"[^\n]", " ", m.group()), text, flags=re.DOTALL)


def _merge(tree: Json, addition: Json) -> None:
    """Sections are merged, the operator's scripts and plugins come before ours, any other value replaces."""
    for key, value in addition.items():
        old = tree.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        elif key in _LISTS and isinstance(old, list) and isinstance(value, list):
            tree[key] = [*value, *(item for item in old if item not in value)]
        else:
            tree[key] = value


_ELSEWHERE = {
    "Name": "{node}.aet",
    "DicomAet": "{node}.aet",
    "DicomPort": "{node}.dicom_port",
    "HttpPort": "{node}.http_port",
    "StableAge": "stable_age",
    "RemoteAccessAllowed": "web.open",
    "StorageDirectory": "data_dir",
    "IndexDirectory": "data_dir",
    "Ddwd": "forward.mode or forward.batch",
}
"""Keys of Orthanc that ddwd.yaml decides."""
_SENDERS_KEYS = ("DicomAlwaysAllowStore", "DicomAlwaysAllowEcho", "DicomCheckModalityHost")
_OURS = {
    "PythonScript": "leave it out: Orthanc takes one Python script, and the portal's own keeps conflicting images"
}
"""Keys of Orthanc that nobody else may set."""


def _refused_keys(path: Path, addition: Json, node: NodeName) -> list[Problem]:
    known = {key: f"set {there.format(node=node)} in ddwd.yaml" for key, there in _ELSEWHERE.items()} | _OURS
    at_senders = (
        "set senders in ddwd.yaml"
        if node == "gateway"
        else "leave it out: only the extractor speaks to ORTHANC2 by DIMSE, and who stands in DicomModalities"
    )
    known |= dict.fromkeys(_SENDERS_KEYS, at_senders)
    return [
        Problem(str(path), None, key, "is not for this file", instead)
        for key, instead in known.items()
        if key in addition
    ]


class _Rule(NamedTuple):
    """One line of the minimum configuration: where the value stands, what must hold, and how to write it."""

    path: tuple[str, ...]
    holds: Callable[[Any], bool]
    instead: str


def _exactly(*path: str, value: bool | int) -> _Rule:
    return _Rule(path, lambda found: type(found) is type(value) and found == value, json.dumps(value))


def _at_least(*path: str, low: int) -> _Rule:
    return _Rule(path, lambda found: type(found) is int and found >= low, f"{low} or more")


MINIMUM: tuple[_Rule, ...] = (
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
    _Rule(("IngestTranscoding",), lambda found: found is None, "nothing: remove the key"),
    _Rule(("DicomServerEnabled",), lambda found: found in (None, True), "true"),
    _Rule(("DicomWeb", "Enable"), lambda found: found in (None, True), "true"),
)
"""What both Orthancs must have, lest images are lost, changed or silently dropped."""

_LISTED = tuple(
    _Rule((key,), lambda found: isinstance(found, list), "a list of files") for key in sorted(_LISTS)
)
_POSTGRESQL = (
    _exactly("PostgreSQL", "EnableIndex", value=True),
    _exactly("PostgreSQL", "EnableStorage", value=False),
    _exactly("PostgreSQL", "Lock", value=True),
)
_GATEWAY = (
    _exactly("DicomWeb", "Servers", STORAGE_SERVER, "ChunkedTransfers", value=True),
    _at_least("DicomWeb", "Servers", STORAGE_SERVER, "Timeout", low=600),
)
_FILTERS = re.compile(r"\b(Received(?:CStore)?InstanceFilter)\b")


def lint(rendered: Rendered, config: Config, node: NodeName) -> list[Problem]:
    """Hold a whole configuration against the minimum; each Problem names the file that broke it."""
    rules = [*MINIMUM, *_LISTED, *(_GATEWAY if node == "gateway" else _storage_rules(config))]
    if config.database.engine == "postgresql":
        rules += _POSTGRESQL
    problems = [
        _broken(
            rendered,
            node,
            rule.path,
            f"must be {rule.instead}, lest images are lost",
            f"write {rule.instead}",
        )
        for rule in rules
        if not rule.holds(_at(rendered.tree, rule.path))
    ]
    return (
        problems + _lint_own(rendered, config, node) + _lint_users(rendered, node) + _lint_scripts(rendered)
    )


def _lint_own(rendered: Rendered, config: Config, node: NodeName) -> list[Problem]:
    """What the parts of the portal know of each other: with another value one of them would not reach the next."""
    return [
        _broken(rendered, node, path, "is the portal's own", "leave it out: ddwd.yaml decides it")
        for path in _own_paths(config, node)
        if _at(rendered.tree, path) != _at(rendered.base, path)
    ]


_TLS_KEYS = tuple((f"DicomTls{key}",) for key in ("Enabled", "RemoteCertificateRequired", "PrivateKey"))


def _own_paths(config: Config, node: NodeName) -> list[tuple[str, ...]]:
    logins = [("RegisteredUsers", "ddwd")]
    if node == "gateway":
        server = ("DicomWeb", "Servers", STORAGE_SERVER)
        others = [(*("DicomWeb", "Servers"), name) for name in destinations.servers(config.destinations)] + [
            ("DicomModalities", name) for name in destinations.modalities(config.destinations, {})
        ]
        return [*logins, *_TLS_KEYS, *((*server, key) for key in ("Url", "Username", "Password")), *others]
    known = [
        ("DicomModalities", one.aet, key)
        for one in machine_link.receivers(config)
        for key in ("AET", "Host", "Port", "UseDicomTls")
    ]
    return [*logins, *_TLS_KEYS, ("RegisteredUsers", "gateway"), *known, ("DicomModalities", EXTRACTOR_AET)]


def _storage_rules(config: Config) -> tuple[_Rule, ...]:
    known = [("DicomModalities", one.aet) for one in machine_link.receivers(config)]
    return (
        *(_exactly(*modality, "AllowTranscoding", value=False) for modality in known),
        *(_at_least(*modality, "Timeout", low=120) for modality in known),
    )


def _at(tree: Json, path: tuple[str, ...]) -> object:
    value: object = tree
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _broken(rendered: Rendered, node: NodeName, path: tuple[str, ...], what: str, instead: str) -> Problem:
    origin = rendered.origins.get(path[0], str(orthanc_share() / f"{node}.json"))
    return Problem(origin, None, ".".join(path), what, instead)


def _lint_users(rendered: Rendered, node: NodeName) -> list[Problem]:
    users = rendered.tree.get("RegisteredUsers")
    if isinstance(users, dict) and users.get("ddwd") and users.get("orthanc") != "orthanc":
        return []
    what, instead = (
        "would lock the portal out, or let anyone in",
        "add users of your own, with real passwords",
    )
    return [_broken(rendered, node, ("RegisteredUsers",), what, instead)]


def _lint_scripts(rendered: Rendered) -> list[Problem]:
    """A reception filter discards images and answers success: none may be loaded. Ours answers a failure."""
    problems = []
    scripts = rendered.tree.get("LuaScripts")
    for script in scripts if isinstance(scripts, list) else []:
        path = Path(str(script))
        if path == orthanc_share() / sender_acl.SCRIPT:
            continue
        try:
            found = _FILTERS.search(path.read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            what = f"cannot be read ({error.strerror})"
            problems.append(
                Problem(str(path), None, "LuaScripts", what, "put the script there, readable for all")
            )
            continue
        if found:
            what = f"defines {found.group(1)}, which drops images and answers success"
            problems.append(Problem(str(path), None, "LuaScripts", what, "remove that function"))
    return problems
