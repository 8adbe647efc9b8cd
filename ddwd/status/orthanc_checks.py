"""Checks of both Orthancs: settings, configuration in use, answers, versions, and the connection from each part to the next."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ddwd.config.checks import hooks_at_fault
from ddwd.core.errors import ConfigError, DdwdError, PeerDownError
from ddwd.core.printable import many
from ddwd.core.problem import problem
from ddwd.core.problem_codes import Code
from ddwd.provisioning import databases, machine_link, orthanc_config, orthanc_minimum
from ddwd.status.check_context import NOT_PERMITTED, CheckContext, ProbeContext
from ddwd.status.units import log_command, log_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.config.schema_network import NodeName
    from ddwd.core.problem import Problem
    from ddwd.dicom.nodes import Part
    from ddwd.orthanc.port import ServerChecks
    from ddwd.provisioning.credentials import Credentials

_FLAWS = (
    ((1, 12, 0), "CVE-2023-33466: a login may overwrite files on the machine"),
    ((1, 12, 11), "CVE-2026-5437 to CVE-2026-5445: a crafted file or request may crash it, or worse"),
)
"""Orthanc's known weaknesses, each with the first version without it (CERT/CC and the CVE records)."""


def settings(context: CheckContext) -> Iterator[Problem]:
    for what, instead in hooks_at_fault(context.config):
        yield problem(Code.SETTINGS_INVALID, f"routes: {what}", instead, what)
    if context.login is None:
        yield NOT_PERMITTED
        return
    for node in context.config.own_nodes:
        for one in orthanc_config.problems_of(context.config, context.login, node.name):
            cause = f"{one.source}: {one.key}: {one.what}"
            yield problem(Code.SETTINGS_INVALID, cause, one.instead, f"{one.source} {one.key}")


def rendered(context: CheckContext) -> Iterator[Problem]:
    """Compare the configuration that the Orthancs were started with to the one of the current settings."""
    if context.login is None:
        yield NOT_PERMITTED
        return
    for node in (node.name for node in context.config.own_nodes):
        for path in sorted(context.paths.rendered(node).glob("*.json")):
            tree = json.loads(path.read_text(encoding="utf-8"))
            yield from _against_minimum(node, tree)
            if tree != json.loads(_expected(context, context.login, node)):
                cause = f"{node} does not run with the current settings"
                yield problem(Code.SETTINGS_NOT_APPLIED, cause, "systemctl restart ddwd", node)


def _expected(context: CheckContext, login: Credentials, node: NodeName) -> str:
    try:
        return orthanc_config.render(context.config, login, node)
    except ConfigError:  # reported by the check of the settings
        return "{}"


def _against_minimum(node: NodeName, tree: dict[str, Any]) -> Iterator[Problem]:
    for rule in orthanc_minimum.MINIMUM:
        if not rule.holds(orthanc_minimum.value_at(tree, rule.path)):
            key = ".".join(rule.path)
            remedy = f"systemctl restart ddwd; it must be {rule.instead}"
            cause = f"{node} runs with a value of {key} that can lose images"
            yield problem(Code.SETTINGS_LOSE_IMAGES, cause, remedy, f"{node} {key}")


def orthancs(context: CheckContext) -> Iterator[Problem]:
    """Check that those that answer use the right database and have the DICOMweb plugin; the report has those that do not."""
    for server in context.report.servers:
        name: NodeName = "gateway" if server.name == "gateway" else "storage"
        if server.unasked:
            yield NOT_PERMITTED
            return
        if server.problem:
            continue
        if server.database != "PostgreSQL" and context.config.database.engine == "postgresql":
            cause = f"the index of {server.name} is in {server.database}, not in PostgreSQL"
            yield problem(Code.ORTHANC_DATABASE, cause, "systemctl restart ddwd", name)
        if "dicom-web" not in context.nodes[name].plugins():
            cause = f"{server.name} runs without its DICOMweb plugin"
            remedy = "apt install orthanc-dicomweb, then systemctl restart ddwd"
            yield problem(Code.PLUGIN_MISSING, cause, remedy, name)


def database(context: ProbeContext) -> Iterator[Problem]:
    """Check that a database server on another machine answers each Orthanc's role; the report has a local one that does not answer."""
    if context.config.database.is_local or context.config.database.engine != "postgresql":
        return
    for node in (node.name for node in context.config.own_nodes):
        try:
            context.ask_database(node)
        except PeerDownError as error:
            cause = f"the index of {node} at {databases.place(context.config)}: {error}"
            remedy = "check the servers, their pg_hba.conf and the password"
            yield problem(Code.DATABASE_REFUSES, cause, remedy, node)


def versions(context: CheckContext) -> Iterator[Problem]:
    """Check for known weaknesses. A distribution may have fixed one without a new version number, so it is a warning."""
    for version in {server.version for server in context.report.servers if server.version}:
        numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
        for fixed, flaw in _FLAWS:
            if numbers and numbers < fixed:
                first_fixed = ".".join(map(str, fixed))
                upgrade = f"apt upgrade installs {first_fixed} or a corrected {version}"
                remedy = f"let only your modalities reach it; {upgrade}"
                yield problem(
                    Code.KNOWN_WEAKNESS, f"Orthanc {version} has {flaw}", remedy, f"{version} {flaw}"
                )


def echoes(context: ProbeContext) -> Iterator[Problem]:
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
            cause = f"{aet} does not answer a C-ECHO on port {port}"
            log = log_command("ddwd-scp") if part == "scp" else log_of(config, part)
            yield problem(Code.ECHO_SILENT, cause, f"ss -ltnp 'sport = :{port}'; {log}", part)


def hops(context: CheckContext) -> Iterator[Problem]:
    """Check that each part reaches the next: STOW-RS by DICOMweb, C-MOVE by C-ECHO."""
    if context.login is None:
        yield NOT_PERMITTED
        return
    if "gateway" in context.nodes:
        yield from _reaches_storage(context.nodes["gateway"])
    if "storage" in context.nodes:
        for receiver in machine_link.receivers(context.config):
            yield from _reaches_receiver(context.nodes["storage"], receiver.aet)


def _reaches_storage(gateway: ServerChecks) -> Iterator[Problem]:
    try:
        gateway.reaches(orthanc_minimum.STORAGE_SERVER)
    except DdwdError as error:
        cause = f"ORTHANC1 does not reach ORTHANC2 by DICOMweb: {error}"
        yield problem(Code.HOP_UNREACHED, cause, "ddwd status", "storage")


def _reaches_receiver(storage: ServerChecks, aet: str) -> Iterator[Problem]:
    try:
        storage.echoes(aet)
    except DdwdError as error:
        cause = f"ORTHANC2 does not reach the SCP {aet}: {error}"
        yield problem(Code.HOP_UNREACHED, cause, f"{log_command('ddwd-scp')}, on its machine", "scp")


def destinations(context: CheckContext) -> Iterator[Problem]:
    """Check that each destination accepts the studies; the report has those that do not answer."""
    states = {row.name: row for row in context.report.destinations}
    for destination in context.config.destinations if context.config.has("gateway") else ():
        row = states.get(destination.name)
        if row is None:
            cause = f"ddwd-courier has not reported {destination.name} yet"
            yield problem(Code.DESTINATION_UNKNOWN, cause, "systemctl status ddwd-courier", destination.name)
        elif row.state != "away" and row.reason:
            studies = many(row.studies, "study", "studies")
            cause = f"{destination.name} answers, and {studies} could not be sent: {row.reason}"
            remedy = "ddwd destinations list"
            yield problem(Code.DESTINATION_REFUSES, cause, remedy, destination.name, count=row.studies)
