"""Render Config to the one JSON file that each Orthanc is started with, and check it against the minimum configuration.

Reads orthanc/{gateway,storage}.json (fixed part), Config, the credentials and the operator's additions. Written by
provision (and `ddwd try`) to Paths.rendered. Additions are merged here, not by Orthanc, which refuses a section that
is in two files; whatever would break the minimum configuration is a ConfigProblem, and no file is rendered then.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.config import tls
from ddwd.config.paths import Paths, orthanc_share
from ddwd.config.routing import JOBS_ELSEWHERE
from ddwd.core.errors import ConfigError, ConfigProblem
from ddwd.core.model import EXTRACTOR_AET, VIEWER
from ddwd.provisioning import databases, destinations, machine_link, modalities
from ddwd.provisioning.orthanc_minimum import LISTS, STORAGE_SERVER, Json, Rendered, lint

if TYPE_CHECKING:
    from ddwd.config.schema import Config, NodeName
    from ddwd.provisioning.credentials import Credentials

RENDERED_NAME = "00-ddwd.json"
PLUGIN_DIR = Path("/usr/share/orthanc/plugins")
PYTHON_PLUGIN = "libOrthancPython.so"
PLUGIN = "plugin.py"
"""Loaded by the Python plugin in both Orthancs; without it Orthanc drops other content under a known UID and answers Success."""
ROUTES = "routes.lua"
"""Loaded in the gateway if there are routes; reads the table that ddwd-provision writes."""
_STOW_SECONDS = 3600
_SCP_SECONDS = 300
_INDEX_CONNECTIONS = 8
KEY_OF_UNIT = "/run/credentials/ddwd-{unit}.service/" + tls.CREDENTIAL
"""Path at which a unit reads its key: LoadCredential= of a drop-in that ddwd-provision writes."""


def base(config: Config, credentials: Credentials, node: NodeName, *, with_plugin: bool = True) -> Json:
    """Return the fixed part of that Orthanc's configuration, completed from Config."""
    share = orthanc_share()
    rendered: Json = json.loads((share / f"{node}.json").read_text(encoding="utf-8"))
    own = config.node(node)
    area = str(Paths(config).storage_area(node))
    rendered |= {
        "Name": own.aet,
        "DicomAet": own.aet,
        "DicomPort": config.gateway.orthanc_port if node == "gateway" else own.dicom_port,
        "HttpPort": own.http_port,
        "StorageDirectory": area,
        "IndexDirectory": area,
        "StableAge": config.stable_age,
        "RegisteredUsers": credentials.of(node),
        "Plugins": _plugins(config, with_plugin=with_plugin),
        "LuaScripts": [str(share / name) for name in _scripts(config, node)],
        "Ddwd": _settings_for_scripts(config, node),
    }
    if with_plugin:
        rendered["PythonScript"] = str(share / PLUGIN)
    else:  # without the plugin, no part limits that user to read requests
        del rendered["RegisteredUsers"][VIEWER]
    if node == "gateway":
        rendered["DicomModalities"] = modalities.commitment_modalities(config)
        rendered["ConcurrentJobs"] += JOBS_ELSEWHERE * len(config.destinations)
    if config.database.engine == "postgresql":
        rendered["PostgreSQL"] = _postgresql(config, node)
    rendered |= _dicom_tls(config, node)
    if node == "gateway":
        _add_servers(rendered, config, *credentials.login("storage", "gateway"))
    else:
        rendered["DicomModalities"] |= _receivers(config)
    return rendered


def _dicom_tls(config: Config, node: NodeName) -> Json:
    """Return the keys of DIMSE over TLS: as a server if the settings have it, and for what ORTHANC2 presents to the SCP."""
    if node == "storage":
        serves, connects, trusted = config.tls.storage, config.tls.scp, tls.authority(config)
    else:
        serves, connects = False, tls.sends_elsewhere(config)
        trusted = destinations.dimse_bundle(config)
    if not serves and not connects:
        return {}
    return {
        "DicomTlsEnabled": serves,
        "DicomTlsCertificate": str(tls.files(config, node).certificate),
        "DicomTlsPrivateKey": KEY_OF_UNIT.format(unit=node),
        "DicomTlsTrustedCertificates": str(trusted),
        "DicomTlsRemoteCertificateRequired": True,
        "DicomTlsMinimumProtocolVersion": 0,  # the profile of BCP 195: TLS 1.2 or later
    }


def _scripts(config: Config, node: NodeName) -> list[str]:
    if node == "storage":
        return []
    return [*([ROUTES] if config.routes else []), "autoforward.lua"]


def _plugins(config: Config, *, with_plugin: bool) -> list[str]:
    names = ["libOrthancDicomWeb.so"]
    if with_plugin:
        names.append(PYTHON_PLUGIN)
    if config.database.engine == "postgresql":
        names.append("libOrthancPostgreSQLIndex.so")
    return [str(PLUGIN_DIR / name) for name in names]


def _settings_for_scripts(config: Config, node: NodeName) -> Json:
    """Return the settings of the Lua scripts and of the plugin."""
    paths = Paths(config)
    rendered: Json = {
        "Mode": config.forward.mode,
        "Batch": config.forward.batch,
        "Doorbell": str(paths.doorbell(node)),
        "Paused": str(paths.forwarding_paused),
        "Package": str(Path(__file__).resolve().parents[2]),
        "Conflicts": str(paths.conflicts(node)),
        "ReserveBytes": config.disk.reserve,
        "Volumes": [str(path) for path in (paths.storage_area(node), *paths.database_area())],
    }
    if node == "gateway":
        rendered["Verdicts"] = str(paths.verdicts)
    if node == "gateway" and config.routes:
        rendered["Routes"] = str(paths.routes)
    if node == "gateway" and config.commitment.modalities:
        rendered["CommitmentQueue"] = str(paths.commitments)
    return rendered


def _postgresql(config: Config, node: NodeName) -> Json:
    """Return the keys of the index; locally libpq takes the folder of the Unix socket for a host, and peer authentication."""
    database = config.database
    section: Json = {
        "EnableIndex": True,
        "EnableStorage": False,
        "Lock": True,
        "Host": database.host or "/var/run/postgresql",
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


def _add_servers(rendered: Json, config: Config, user: str, password: str) -> None:
    """Add the DICOMweb servers that the gateway sends to, the modalities among the destinations, and the authorities."""
    server: Json = {
        "Url": f"{config.storage.url}/dicom-web/",
        "Username": user,
        "Password": password,
        "ChunkedTransfers": True,
        "Timeout": _STOW_SECONDS,
    }
    trusted = None
    if config.tls.dicomweb:
        server["Url"] = f"https://127.0.0.1:{config.tls.dicomweb_port}/dicom-web/"
        server["CertificateFile"] = str(tls.files(config, "gateway").certificate)
        server["CertificateKeyFile"] = KEY_OF_UNIT.format(unit="gateway")
        trusted = tls.authority(config)
    if destinations.authorities(config):
        trusted = destinations.bundle(config)
    if trusted:
        rendered |= {"HttpsVerifyPeers": True, "HttpsCACertificates": str(trusted)}
    rendered["DicomWeb"]["Servers"] = {STORAGE_SERVER: server, **destinations.servers(config.destinations)}
    known = rendered["DicomModalities"]
    known |= destinations.modalities(config.destinations, known)


def _receivers(config: Config) -> Json:
    """Return the receivers that the storage sends to, and the extractor, which it answers on this machine only."""
    receivers: Json = {
        receiver.aet: {
            "AET": receiver.aet,
            "Host": receiver.host,
            "Port": receiver.port,
            **modalities.allowing(),
            "AllowTranscoding": False,
            "Timeout": _SCP_SECONDS,
            "UseDicomTls": config.tls.scp,
        }
        for receiver in machine_link.receivers(config)
    }
    extractor = modalities.modality(EXTRACTOR_AET, "127.0.0.1", "Move") | {"Port": config.scp.port}
    return receivers | {EXTRACTOR_AET: extractor}


def render(config: Config, credentials: Credentials, node: NodeName, *, with_plugin: bool = True) -> str:
    """Return the JSON text for that Orthanc. Raises ConfigError with every addition that is refused.

    Without `with_plugin` Orthanc's Python plugin is not required: for a trial on a host that has none.
    """
    rendered, problems = merged(config, credentials, node, with_plugin=with_plugin)
    if problems:
        raise ConfigError(problems)
    return json.dumps(rendered.tree, indent=2) + "\n"


def problems_of(config: Config, credentials: Credentials, node: NodeName) -> list[ConfigProblem]:
    """Return everything wrong with that Orthanc's additions, for `ddwd config check`."""
    return merged(config, credentials, node)[1]


def merged(
    config: Config, credentials: Credentials, node: NodeName, *, with_plugin: bool = True
) -> tuple[Rendered, list[ConfigProblem]]:
    """Merge the operator's additions into the base, in the order of their names; return everything wrong with them too."""
    own = base(config, credentials, node, with_plugin=with_plugin)
    tree = copy.deepcopy(own)
    origins: dict[str, str] = {}
    problems: list[ConfigProblem] = []
    for path in sorted(Paths(config).additions(node).glob("*.json")):
        addition = read_addition(path, problems)
        problems += _refused_keys(path, addition, node)
        _merge(tree, addition)
        origins |= dict.fromkeys(addition, str(path))
    rendered = Rendered(node, tree, origins, own)
    return rendered, problems + lint(rendered, config)


def read_addition(path: Path, problems: list[ConfigProblem]) -> Json:
    """Read one of the operator's files; if something is wrong with it, add that to `problems` and return an empty section."""
    problem: tuple[int | None, str, str, str]
    try:
        found = json.loads(_without_comments(path.read_text(encoding="utf-8")))
    except OSError as error:
        problem = (None, "file", f"cannot be read ({error.strerror})", "make it readable")
    except json.JSONDecodeError as error:
        line, reason = _json_mistake(error)
        problem = (line, "syntax", f"not JSON: {reason}", "write one JSON object")
    except ValueError as error:
        problem = (None, "syntax", f"not JSON: {error}", "write one JSON object")
    else:
        if isinstance(found, dict):
            return found
        problem = (1, "syntax", "is not a JSON object", "write { ... } around it")
    problems.append(ConfigProblem(str(path), *problem))
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
    """Blank out // and /* */ comments, which Orthanc allows; strings and line numbers stay."""
    pattern = r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/'
    return re.sub(pattern, lambda m: m.group(1) or re.sub(r"[^\n]", " ", m.group()), text, flags=re.DOTALL)


def _merge(tree: Json, addition: Json) -> None:
    """Merge sections, put the operator's scripts and plugins before the portal's, replace any other value."""
    for key, value in addition.items():
        old = tree.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        elif key in LISTS and isinstance(old, list) and isinstance(value, list):
            tree[key] = [*value, *(item for item in old if item not in value)]
        else:
            tree[key] = value


_SETTING_OF = {
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
"""Keys of Orthanc, and the setting of ddwd.yaml that determines each."""
_ACCESS_KEYS = ("DicomAlwaysAllowStore", "DicomAlwaysAllowEcho", "DicomCheckModalityHost")


def _refused_keys(path: Path, addition: Json, node: NodeName) -> list[ConfigProblem]:
    instead = {key: f"set {setting.format(node=node)} in ddwd.yaml" for key, setting in _SETTING_OF.items()}
    instead["PythonScript"] = (
        "leave it out: Orthanc loads one Python script only, and the portal's script keeps conflicting images"
    )
    senders = (
        "leave it out: only the extractor and the entries of DicomModalities connect to ORTHANC2 by DIMSE"
    )
    instead |= dict.fromkeys(_ACCESS_KEYS, "set senders in ddwd.yaml" if node == "gateway" else senders)
    return [
        ConfigProblem(str(path), None, key, "is not for this file", hint)
        for key, hint in instead.items()
        if key in addition
    ]
