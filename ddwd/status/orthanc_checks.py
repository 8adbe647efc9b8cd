"""Checks of both Orthancs: settings, configuration in use, answers, versions, and the connection from each part to the next."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ddwd.config.checks import hooks_at_fault
from ddwd.core.errors import ConfigError, DdwdError, PeerDownError
from ddwd.provisioning import databases, machine_link, orthanc_config, orthanc_minimum
from ddwd.status.findings import NOT_PERMITTED, CheckContext, Finding, Part, broken, note, warn
from ddwd.status.formatting import many, time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.config.schema import Config
    from ddwd.config.schema_network import NodeName
    from ddwd.orthanc.port import ServerChecks
    from ddwd.provisioning.credentials import Credentials

_FLAWS = (
    ((1, 12, 0), "CVE-2023-33466: a login may overwrite files on the machine"),
    ((1, 12, 11), "CVE-2026-5437 to CVE-2026-5445: a crafted file or request may crash it, or worse"),
)
"""Orthanc's known weaknesses, each with the first version without it (CERT/CC and the CVE records)."""


def settings(context: CheckContext) -> Iterator[Finding]:
    for what, instead in hooks_at_fault(context.config):
        yield broken(f"routes: {what}", instead)
    if context.login is None:
        yield NOT_PERMITTED
        return
    for node in context.config.own_nodes:
        for problem in orthanc_config.problems_of(context.config, context.login, node.name):
            yield broken(f"{problem.source}: {problem.key}: {problem.what}", problem.instead)


def rendered(context: CheckContext) -> Iterator[Finding]:
    """Compare the configuration that the Orthancs were started with to the one of the current settings."""
    if context.login is None:
        yield NOT_PERMITTED
        return
    for node in (node.name for node in context.config.own_nodes):
        for path in sorted(context.paths.rendered(node).glob("*.json")):
            tree = json.loads(path.read_text(encoding="utf-8"))
            yield from _against_minimum(node, tree)
            if tree != json.loads(_expected(context, context.login, node)):
                yield warn(f"{node} does not run with the current settings", "systemctl restart ddwd")


def _expected(context: CheckContext, login: Credentials, node: NodeName) -> str:
    try:
        return orthanc_config.render(context.config, login, node)
    except ConfigError:  # reported by the check of the settings
        return "{}"


def _against_minimum(node: NodeName, tree: dict[str, Any]) -> Iterator[Finding]:
    for rule in orthanc_minimum.MINIMUM:
        if not rule.holds(orthanc_minimum.value_at(tree, rule.path)):
            key = ".".join(rule.path)
            remedy = f"systemctl restart ddwd; it must be {rule.instead}"
            yield broken(f"{node} runs with a value of {key} that can lose images", remedy)


def orthancs(context: CheckContext) -> Iterator[Finding]:
    """Check that both answer, use the right database, and have the DICOMweb plugin."""
    for server in context.report.servers:
        name: NodeName = "gateway" if server.name == "gateway" else "storage"
        if server.unasked:
            yield NOT_PERMITTED
            return
        if server.problem:
            yield broken(server.problem, _log_of(context.config, name))
            continue
        if server.database != "PostgreSQL" and context.config.database.engine == "postgresql":
            text = f"the index of {server.name} is in {server.database}, not in PostgreSQL"
            yield broken(text, "systemctl restart ddwd")
        if "dicom-web" not in context.nodes[name].plugins():
            text = f"{server.name} runs without its DICOMweb plugin"
            yield broken(text, "apt install orthanc-dicomweb, then systemctl restart ddwd")
    yield from _external(context)


def _log_of(config: Config, node: NodeName) -> str:
    """Return where an Orthanc's log is; of one on another machine also the log of the link, which may be what fails."""
    there = config.node(node).host
    log = f"journalctl -u ddwd-{node} -n 50"
    return log if config.has(node) else f"journalctl -u ddwd-tls@link -n 50; on {there}: {log}"


def _external(context: CheckContext) -> Iterator[Finding]:
    """Check that a database server on another machine answers each Orthanc's role. `checks.units_run` checks the local one."""
    if context.config.database.is_local or context.config.database.engine != "postgresql":
        return
    for node in (node.name for node in context.config.own_nodes):
        try:
            context.ask_database(node)
        except PeerDownError as error:
            text = f"the index of {node} at {databases.place(context.config)}: {error}"
            yield broken(text, "check the servers, their pg_hba.conf and the password")


def versions(context: CheckContext) -> Iterator[Finding]:
    """Check for known weaknesses. A distribution may have fixed one without a new version number, so it is a warning."""
    for version in {server.version for server in context.report.servers if server.version}:
        numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
        for fixed, flaw in _FLAWS:
            if numbers and numbers < fixed:
                first_fixed = ".".join(map(str, fixed))
                upgrade = f"apt upgrade installs {first_fixed} or a corrected {version}"
                remedy = f"let only your modalities reach it; {upgrade}"
                yield warn(f"Orthanc {version} has {flaw}", remedy)


def echoes(context: CheckContext) -> Iterator[Finding]:
    """Check that each DICOM port answers a C-ECHO under its AE title."""
    config = context.config
    ports: tuple[tuple[Part, int, str], ...] = (
        ("gateway", config.gateway.dicom_port, config.gateway.aet),
        ("storage", config.storage.dicom_port, config.storage.aet),
        ("scp", config.scp.port, config.scp.aet),
    )
    reached = (
        {"scp", "gateway", "storage"} if config.has("extractor") else {node.name for node in config.own_nodes}
    )
    for part, port, aet in ports:
        if part in reached and not context.echo(part):
            text = f"{aet} does not answer a C-ECHO on port {port}"
            log = f"journalctl -u ddwd-{part} -n 50" if part == "scp" else _log_of(config, part)
            remedy = f"ss -ltnp 'sport = :{port}'; {log}"
            yield broken(text, remedy)


def hops(context: CheckContext) -> Iterator[Finding]:
    """Check that each part reaches the next: STOW-RS by DICOMweb, C-MOVE by C-ECHO; and check the other destinations."""
    yield from _destinations(context)
    if context.login is None:
        yield NOT_PERMITTED
        return
    if "gateway" in context.nodes:
        yield from _reaches_storage(context.nodes["gateway"])
    if "storage" in context.nodes:
        for receiver in machine_link.receivers(context.config):
            yield from _reaches_receiver(context.nodes["storage"], receiver.aet)


def _reaches_storage(gateway: ServerChecks) -> Iterator[Finding]:
    try:
        gateway.reaches(orthanc_minimum.STORAGE_SERVER)
    except DdwdError as error:
        yield broken(f"ORTHANC1 does not reach ORTHANC2 by DICOMweb: {error}", "ddwd status")


def _reaches_receiver(storage: ServerChecks, aet: str) -> Iterator[Finding]:
    try:
        storage.echoes(aet)
    except DdwdError as error:
        text = f"ORTHANC2 does not reach the SCP {aet}: {error}"
        yield broken(text, "journalctl -u ddwd-scp -n 50, on its machine")


def _destinations(context: CheckContext) -> Iterator[Finding]:
    """Check that each destination answers and accepts the studies."""
    states = {row.name: row for row in context.report.destinations}
    for destination in context.config.destinations if context.config.has("gateway") else ():
        row = states.get(destination.name)
        if row is None:
            yield note(
                f"ddwd-courier has not reported {destination.name} yet", "systemctl status ddwd-courier"
            )
        elif row.state == "away":
            text = f"{destination.name} does not answer since {time(row.since)}: {row.reason}"
            yield broken(text, "ddwd destinations list")
        elif row.reason:
            studies = many(row.studies, "study", "studies")
            text = f"{destination.name} answers, and {studies} could not be sent: {row.reason}"
            yield warn(text, "ddwd destinations list")
