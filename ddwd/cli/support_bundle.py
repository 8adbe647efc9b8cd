"""`ddwd support-bundle`: collect what support needs in one file, without patient data and secrets."""

import getpass
import re
import socket
from argparse import Namespace
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ddwd import __version__
from ddwd.cli import config as config_verb
from ddwd.cli import doctor, output_file, progress, status, tls
from ddwd.cli.command import Argument, Command, VerbResult, prints
from ddwd.config.loader import load_with_sources, settings_files
from ddwd.config.paths import Paths
from ddwd.config.schema import Config, Loaded, NodeName
from ddwd.core.answers import Key
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import AccessProblem, ConfigError, ConfigProblem, DdwdError
from ddwd.provisioning import certificates, credentials, orthanc_config
from ddwd.provisioning.credentials import Credentials
from ddwd.status import bundle, redaction, system_info
from ddwd.status import report as view
from ddwd.status.bundle import Missed, Part
from ddwd.status.doctor import examine
from ddwd.status.formatting import size


def _run(args: Namespace, _config: Config | None) -> VerbResult:
    now = SystemClock().utc()
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
    name = f"ddwd-support-{host}-{now:%Y%m%dT%H%M%SZ}"
    target = output_file.target(args.output, f"{name}.tar.gz")
    subject = InspectedMachine()
    with progress.bar("", as_json=args.json) as bar:
        packed, missed = bundle.gather(subject.parts(), subject.scrub, lambda part: bar.step(part.what))
    missed = [*subject.missed, *missed]
    about = {
        "made_by": f"ddwd support-bundle {__version__}",
        "at": stamp(now),
        "host": socket.gethostname(),
        "user": getpass.getuser(),
        "not_collected": [asdict(one) for one in missed],
        "taken_out": dict(subject.scrub.hidden),
    }
    content = bundle.archive(name, packed, about, now)
    output_file.write(target, content)
    body = {"file": str(target), "bytes": len(content), "files": [one.file for one in packed]}
    made = f"{target} ({size(len(content))}, {len(packed)} files); to view it: tar -xzf {target}"
    return VerbResult(
        body | {"not_collected": about["not_collected"]},
        [*(f"not collected: {one.file}: {one.reason}" for one in missed), made],
    )


class InspectedMachine:
    """The machine that the bundle describes. Invalid settings are reported, and the defaults used instead."""

    def __init__(self) -> None:
        self.missed: list[bundle.Missed] = []
        self._loaded, self._problems = _settings()
        self.config = self._loaded.config
        self.paths = Paths(self.config)
        self._secrets = redaction.secrets_of(self.config, self._login(), _texts())
        self._additions = dict(self._read_additions())
        self.scrub = redaction.Redactor(self._secrets, self._patients(), self.paths.output)

    def _login(self) -> Credentials | None:
        try:
            return credentials.read(self.config.credentials_file)
        except ConfigError:
            return None

    def _patients(self) -> set[str]:
        try:
            return redaction.patients(self.paths.output)
        except OSError as error:
            reason = f"{error.strerror}: no PatientID was searched for"
            self.missed.append(bundle.Missed("(the folders in OUTPUT_DIR)", reason))
            return set()

    def _read_additions(self) -> list[tuple[str, Any]]:
        """Read the operator's JSON for the Orthancs, and add its secrets to those that are hidden."""
        nodes: tuple[NodeName, NodeName] = ("gateway", "storage")
        found = []
        for node in nodes:
            for path in sorted(self.paths.additions(node).glob("*.json")):
                problems: list[ConfigProblem] = []
                tree = orthanc_config.read_addition(path, problems)
                name = f"orthanc/{path.parent.name}/{path.name}"
                self.missed += [bundle.Missed(name, f"{one.what}; {one.instead}") for one in problems]
                if not problems:
                    found.append((name, redaction.without_secrets(tree, self._secrets)))
        return found

    def parts(self) -> list[Part]:
        """Return everything that is collected, in the order of reading."""
        config, paths, ask = self.config, self.paths, system_info.run
        places = [paths.output, config.data_dir, *paths.database_area(), config.run_dir, Path("/tmp")]  # noqa: S108 - only its volume
        return [
            Part("settings.json", "each setting and its source",
                 lambda: {"problems": self._problems, "settings": config_verb.shown(self._loaded)}),
            *(
                Part(name, "an addition to an Orthanc", partial(self._additions.get, name))
                for name in self._additions
            ),
            Part("status.json", "ddwd status", lambda: status.as_json(view.collect(config, view.real_sources()))),
            Part("doctor.json", "ddwd doctor", lambda: doctor.as_json(examine(doctor.context_of(config)))),
            Part("units.txt", "states of the units", lambda: system_info.unit_states(ask, system_info.units(ask))),
            Part("versions.txt", "versions", lambda: system_info.versions(ask)),
            Part("counts.json", "ledger and files, counted", lambda: system_info.counts(paths)),
            Part("disks.txt", "disks", lambda: system_info.disks(ask, places)),
            Part("memory.txt", "memory and load", system_info.memory),
            Part("network.txt", "addresses, routes and ports", lambda: system_info.network(ask)),
            Part("clock.txt", "clock", lambda: system_info.clock(ask)),
            Part("certificates.json", "certificates and their ends", lambda: tls.facts(config, certificates.show(config))),
            Part("journal/audit.log", "journal: the audit trail", system_info.journal),
            *self._journals(),
        ]  # fmt: skip

    def _journals(self) -> list[Part]:
        try:
            names = system_info.units(system_info.run)
        except DdwdError as error:
            self.missed.append(bundle.Missed("journal", str(error)))
            return []
        return [
            Part(f"journal/{name}.log", f"journal: {name}", partial(system_info.journal, unit=name))
            for name in names
        ]


def _settings() -> tuple[Loaded, list[str]]:
    """Return the settings, or the defaults with the problems. Raises ConfigError if this user may not read them."""
    try:
        return load_with_sources(), []
    except ConfigError as error:
        if any(isinstance(problem, AccessProblem) for problem in error.problems):
            raise
        return Loaded(Config(), {}), [str(problem) for problem in error.problems]


def _texts() -> list[str]:
    """Return the text of the settings files: secrets are searched for in invalid files too."""
    files = [path for path in settings_files() if path.is_file()]
    return [path.read_text(encoding="utf-8", errors="replace") for path in files]


COMMAND = Command(
    "support-bundle",
    "collect what support needs in one file, without patients and secrets",
    prints(_run),
    (
        Argument(
            "--output",
            type=Path,
            metavar="PATH",
            help="a new file, or the folder for it (default: the current folder)",
        ),
    ),
    about="""It makes one .tar.gz that only you can read: settings and the additions to the Orthancs without
passwords, states of the units, status and doctor, versions, the journal of the last day, counts of
the ledger, disks, memory, network and certificates. MANIFEST.json in it lists each file, what it
never contains, and what could not be collected. It contains no name or identifier of a patient, no
accession number, and no path below OUTPUT_DIR; studies are named by UID. Run it with sudo: other
users see less. It works while the portal is stopped, and with invalid settings.""",
    exits={
        0: "written; what could not be collected is listed",
        65: "it cannot be written there",
        74: "no room on the disk",
        78: "this user may not read the settings",
    },
    needs_config=False,
    answer=(
        Key("file", str, "the file that was written"),
        Key("bytes", int, "its size"),
        Key("files", list[str], "what is in it"),
        Key("not_collected", list[Missed], "what could not be collected, and why"),
    ),
)
