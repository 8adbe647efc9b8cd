"""`ddwd config check|show`: check the settings against this machine, or show each with its source."""

import importlib.util
import itertools
import os
import socket
import stat
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from ddwd.cli.command import Argument, Command, VerbResult, prints
from ddwd.config import tls
from ddwd.config.checks import hooks_at_fault, ports
from ddwd.config.loader import load_with_sources
from ddwd.config.parsers import DEFAULT, Share
from ddwd.config.paths import Paths
from ddwd.config.schema import SECRET_KEYS, Config, Loaded, flatten
from ddwd.core.answers import sometimes
from ddwd.core.errors import ConfigError, ConfigProblem
from ddwd.provisioning import databases, firewall, machine_link, tls_proxy
from ddwd.provisioning.host import completed
from ddwd.provisioning.port_holders import Holder, holders

_UNIT_OF = {
    "gateway.dicom_port": "ddwd-acceptor",
    "gateway.orthanc_port": "ddwd-gateway",
    "gateway.http_port": "ddwd-gateway",
    "storage.dicom_port": "ddwd-storage",
    "storage.http_port": "ddwd-storage",
    "scp.port": "ddwd-scp",
    "tls.gateway_port": "ddwd-acceptor",
    "tls.dicomweb_port": "ddwd-tls@storage",
    "web.gateway_port": "ddwd-tls@web-gateway",
    "web.storage_port": "ddwd-tls@web-storage",
    "link.port": machine_link.UNIT,
}
_IN_ITS_PLACE = {
    **{key: (machine_link.UNIT,) for key in _UNIT_OF if key.startswith(("gateway.", "storage."))},
    "gateway.dicom_port": (machine_link.UNIT, "ddwd-gateway"),
    "tls.gateway_port": ("ddwd-tls@gateway",),
    "web.gateway_port": ("ddwd-tls@gateway",),
    "web.storage_port": ("ddwd-tls@storage",),
}
"""The link listens on the ports of an Orthanc that is on another machine; that Orthanc ran here until `roles` was changed.

While 0.2.0 is upgraded, its own units still listen where the acceptor is to.
"""


def _run(args: Namespace, _config: Config | None) -> VerbResult:
    return _check(as_json=args.json) if args.action == "check" else _show()


def _check(*, as_json: bool) -> VerbResult:
    try:
        config = _checked()
    except ConfigError as error:
        if not as_json:
            raise
        return VerbResult({"problems": [asdict(one) for one in error.problems]}, [], error.exit_status)
    scp = config.scp
    parts = [f"{node.aet} on {node.dicom_port} (web {node.http_port})" for node in config.own_nodes]
    if config.has("extractor"):
        parts += [f"{scp.aet} on {scp.host}:{scp.port}", f"output in {config.output_dir}"]
    line = f"the configuration is sound: {', '.join(parts)}; see `ddwd status`"
    return VerbResult({"problems": []}, [line])


def _checked() -> Config:
    """Return the settings, checked against this machine. Raises ConfigError with every problem."""
    loaded = load_with_sources()
    if problems := [problem for check in _CHECKS for problem in check(loaded)]:
        raise ConfigError(problems)
    return loaded.config


def port_problems(loaded: Loaded) -> Iterator[ConfigProblem]:
    """Yield the ports that another program holds; a running unit of the portal may hold its own, as another user does not."""
    running = _running_units()
    values = flatten(loaded.config)
    for key in ports(loaded.config):
        port = int(str(values[key]))
        host = loaded.config.scp.host if key == "scp.port" else ""
        held = holders(port)
        if {_UNIT_OF[key], *_IN_ITS_PLACE.get(key, ())} & running:
            held = [holder for holder in held if not _is_ours(loaded.config, key, holder)]
            is_taken = bool(held)
        else:
            is_taken = _is_taken(host, port)
        if is_taken:
            who = next((f" by {holder}" for holder in held), "")
            what = f"port {port} is taken{who}"
            yield loaded.problem(key, what, "stop that program, or set another port here")


def _is_ours(config: Config, key: str, holder: Holder) -> bool:
    """Return whether a unit of the portal may be who listens: its user, or one that a setting or version of before had."""
    return holder.user in firewall.listeners(config, key) or holder.user.startswith("ddwd")


def output_problems(loaded: Loaded) -> Iterator[ConfigProblem]:
    """Yield a problem if this user cannot write to OUTPUT_DIR; the service runs this as ddwd."""
    folder = loaded.config.output_dir
    if not loaded.config.has("extractor"):
        return
    if not folder.is_dir():
        hint = f"create it: install -d -o ddwd -g ddwd -m 0750 {folder}"
        yield loaded.problem("output_dir", f"the folder {folder} does not exist", hint)
    elif os.statvfs(folder).f_flag & os.ST_RDONLY:
        # under systemd ProtectSystem= of ddwd.service may make an OUTPUT_DIR outside data_dir read-only
        if not os.environ.get("INVOCATION_ID") or folder.is_relative_to(loaded.config.data_dir):
            what = f"{folder} is on a read-only file system"
            yield loaded.problem("output_dir", what, "mount it read-write")
    elif not os.access(folder, os.W_OK | os.X_OK):
        hint = f"give it to user ddwd: chown ddwd:ddwd {folder}"
        yield loaded.problem("output_dir", f"{folder} cannot be written by this user", hint)


def hook_problems(loaded: Loaded) -> Iterator[ConfigProblem]:
    """Yield the hooks of routes that cannot be executed, and those that another user may change."""
    for what, instead in hooks_at_fault(loaded.config):
        yield loaded.problem("routes", what, instead)


def tls_problems(loaded: Loaded) -> Iterator[ConfigProblem]:
    """Yield the files that TLS needs and that are missing: certificates, keys, and stunnel, the TLS proxy."""
    config = loaded.config
    sections = ("tls.", "web.", "roles", "extractors")
    set_keys = (key for key, source in loaded.sources.items() if source != DEFAULT)
    key = next((key for key in set_keys if key.startswith(sections)), "tls")
    private = [tls.files(config, name).key for name in tls.in_use(config)]
    for path in [*tls.certificates_in_use(config), *private]:
        if not path.is_file():
            yield loaded.problem(key, f"{path} does not exist", "sudo ddwd tls init makes what is missing")
    proxies = [tls_proxy.render(config, instance) for instance in tls_proxy.INSTANCES]
    proxies.append(machine_link.render(config))
    if any(proxies) and not tls_proxy.PROGRAM.exists():
        yield loaded.problem(key, "needs stunnel, which is not installed", "apt install stunnel4")


def database_problems(loaded: Loaded) -> Iterator[ConfigProblem]:
    """Yield settings of the external server that contradict each other, and a password that cannot be read."""
    database, hint = loaded.config.database, "keep one of them"
    if database.url is not None and database.host is not None:
        yield loaded.problem("database.url", "database.host is set too", hint)
    if database.password_file is not None and database.password is not None:
        yield loaded.problem("database.password_file", "database.password is set too", hint)
    try:
        databases.password(loaded.config)
    except ConfigError as error:
        yield from error.problems


def ledger_problems(loaded: Loaded) -> Iterator[ConfigProblem]:
    """Yield what a shared ledger needs and is missing on this machine. Its server is not checked: the extractor waits for it."""
    settings = loaded.config.ledger
    if not settings.is_shared:
        return
    if importlib.util.find_spec("psycopg") is None:
        what = "needs psycopg, which is not installed"
        yield loaded.problem("ledger.shared", what, "apt install python3-psycopg")
    path = settings.password_file
    if path is not None and (what := _secret_problem(path)):
        hint = f"chown root:ddwd {path} && chmod 640 {path}"
        yield loaded.problem("ledger.password_file", f"{path} {what}", hint)


def _secret_problem(path: Path) -> str:
    try:
        path.read_bytes()
        return "is readable by every user" if path.stat().st_mode & stat.S_IROTH else ""
    except OSError as error:
        return f"cannot be read by this user ({error.strerror})"


def firewall_problems(loaded: Loaded) -> Iterator[ConfigProblem]:
    """Yield a problem if the firewall must be on and nft is not installed."""
    if loaded.config.network.firewall == "true" and not Path(firewall.PROGRAM).exists():
        yield loaded.problem(
            "network.firewall", f"{firewall.PROGRAM} is missing", "apt install nftables, or write auto"
        )


def restore_problems(loaded: Loaded) -> Iterator[ConfigProblem]:
    """Yield a problem if a restore was not finished: databases and images may not match then."""
    marker = Paths(loaded.config).restoring
    if marker.exists():
        what = "a restore was started and is not complete"
        yield ConfigProblem(
            str(marker), None, "restore", what, "run ddwd restore DIR again until it is complete"
        )


def _running_units() -> set[str]:
    units = sorted({*_UNIT_OF.values(), *itertools.chain(*_IN_ITS_PLACE.values())})
    states = completed(["systemctl", "is-active", *units], timeout=20).out.split()
    # "deactivating" counts: while a restart is under way the old process may still hold its port
    return {unit for unit, state in zip(units, states, strict=False) if state not in {"inactive", "failed"}}


def _is_taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except PermissionError:  # a port below 1024 and no right to bind it: only a listener can be detected
            return bool(holders(port))
        except OSError:
            return True
    return False


class _Setting(TypedDict):
    value: Any
    source: str


def _show() -> VerbResult:
    rows = shown(load_with_sources())
    lines = [f"{key:<24} {_text(row['value']):<34} {row['source']}" for key, row in rows.items()]
    return VerbResult({"settings": rows}, lines)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def shown(loaded: Loaded) -> dict[str, dict[str, object]]:
    """Return each key with its value and source; secrets are hidden."""
    return {
        key: {"value": _shown(key, value), "source": str(loaded.sources.get(key, DEFAULT))}
        for key, value in flatten(loaded.config).items()
    }


def _shown(key: str, value: object) -> object:
    if key in SECRET_KEYS and value is not None:
        return "(hidden)"
    if isinstance(value, bool):
        return "true" if value else "false"  # as in YAML
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value) if isinstance(value, (Path, Share)) else value


_CHECKS: tuple[Callable[[Loaded], Iterable[ConfigProblem]], ...] = (
    port_problems,
    output_problems,
    hook_problems,
    tls_problems,
    firewall_problems,
    machine_link.problems,
    database_problems,
    ledger_problems,
    restore_problems,
)
COMMAND = Command(
    "config",
    "check or show the settings",
    prints(_run),
    (Argument("action", choices=["check", "show"], help="check them, or show each with its source"),),
    about="ddwd.service runs check before it starts any other unit. show hides passwords.",
    exits={
        0: "the settings are sound, and this machine can run with them",
        78: "they are not: one line for each mistake, with file, line, key, and what to write",
    },
    needs_config=False,
    answer=(
        sometimes("problems", list[ConfigProblem], "check: each mistake"),
        sometimes("settings", dict[str, _Setting], "show: each setting by its key"),
    ),
)
