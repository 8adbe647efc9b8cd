"""What is known against the parts of the portal: `make audit`.

    audit.py DEB [--advisories FILE] [--lock FILE] [--offline] | --table

Takes the bill of materials out of the built .deb, holds it against CycloneDX's own schema and against the vendored list, and then
against advisories: those that advisories.json carries (dated; for Orthanc and DCMTK too, which come from Debian) and those that
pip-audit reaches. Says of each what was asked and how old it is. Exit status 1 where anything is found that is not accepted
there with a reason; a service that cannot be reached is said, and is no failure. `--table` prints docs/security.md's table.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tarfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from packaging.specifiers import SpecifierSet

HERE = Path(__file__).resolve().parent
BILL = "./usr/share/ddwd/sbom.cdx.json"
_OLD_DAYS = 60
_PATIENCE = "15"


class Finding(NamedTuple):
    """One line: `ok`, `note` or `FAIL`, what was looked at, and what came of it."""

    level: str
    about: str
    text: str


def shipped(deb: Path) -> str:
    """The bill of materials as it lies in the .deb. Raises KeyError where it has none."""
    with (
        subprocess.Popen(
            ["/usr/bin/dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE
        ) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as tree,
    ):
        for member in tree:
            found = tree.extractfile(member) if member.name == BILL else None
            if found is not None:
                return found.read().decode()
    raise KeyError(f"{deb} has no {BILL}")


def by_schema(text: str) -> Finding:
    """Whether the bill is what CycloneDX calls one, by the schema that its own library brings along."""
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415 - the tests of the rest need it not
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong:
        return Finding("FAIL", "SBOM", f"not CycloneDX 1.6: {wrong}")
    return Finding(
        "ok", "SBOM", f"CycloneDX 1.6 by its own schema; {len(json.loads(text)['components'])} components"
    )


def vendored_of(bill: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> component, of those that the .deb carries itself."""
    return {one["name"]: one for one in bill["components"] if one["purl"].startswith("pkg:pypi/")}


def by_lock(bill: dict[str, Any], lock: str) -> list[Finding]:
    """Whether the bill names what the vendored list pins: no more, no less, each wheel by one of its hashes."""
    pinned: dict[str, tuple[str, set[str]]] = {
        found[1]: (found[2], set(re.findall(r"--hash=sha256:([0-9a-f]{64})", found[3])))
        for found in re.finditer(r"^([A-Za-z0-9._-]+)==(\S+)((?:.|\n(?= ))*)", lock, re.MULTILINE)
    }
    named = {name: (one["version"], one["hashes"][0]["content"]) for name, one in vendored_of(bill).items()}
    wrong = sorted(pinned.keys() ^ named.keys())
    wrong += [
        name
        for name, (version, digest) in named.items()
        if name in pinned and (version != pinned[name][0] or digest not in pinned[name][1])
    ]
    if wrong:
        return [Finding("FAIL", "vendored list", f"not as packaging/vendor.lock pins it: {', '.join(wrong)}")]
    return [
        Finding(
            "ok", "vendored list", f"{len(named)} libraries, each wheel by its hash in packaging/vendor.lock"
        )
    ]


def by_carried(bill: dict[str, Any], carried: dict[str, Any], today: date) -> list[Finding]:
    """The advisories of the repository, on what the .deb carries itself."""
    age = (today - date.fromisoformat(carried["checked"])).days
    old = f"of {carried['checked']}, {age} days old: {carried['against']}"
    found = [Finding("note" if age > _OLD_DAYS else "ok", "carried advisories", old)]
    components = vendored_of(bill)
    for one in carried["vendored"]:
        component = components.get(one["package"])
        if component is None or component["version"] not in SpecifierSet(one["affected"], prereleases=True):
            continue
        what = f"{one['package']} {component['version']}: {one['id']}, {one['what']}"
        accepted = one.get("accepted")
        found.append(
            Finding("note" if accepted else "FAIL", "vendored", f"{what}; {accepted or 'not accepted'}")
        )
    return found


def by_debian(carried: dict[str, Any]) -> list[Finding]:
    """What is open in the packages of Debian that the portal stands on; each must say what shields from it."""
    found = []
    for package, known in carried["debian"].items():
        still = [one for one in known["advisories"] if one["affected"]]
        bare = [one["id"] for one in still if not one.get("shield")]
        if bare:
            found.append(Finding("FAIL", package, f"says not what shields from {', '.join(bare)}"))
        names = (
            f": {', '.join(one['id'] for one in still)}; what shields from each: docs/security.md"
            if still
            else ""
        )
        found.append(
            Finding("note" if still else "ok", package, f"{known['version']} has {len(still)} open{names}")
        )
    return found


def by_service(lock: Path, accepted: set[str]) -> list[Finding]:
    """What OSV knows now, by pip-audit; nothing where it cannot be reached."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--vulnerability-service",
        "osv",
        "--timeout",
        _PATIENCE,
        "--format",
        "json",
    ]
    command += ["--progress-spinner", "off", "--disable-pip", "--require-hashes", "--requirement", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answered = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        return [
            Finding("note", "OSV, by pip-audit", f"NOT ASKED: it cannot be reached from here ({said[:120]})")
        ]
    return answers(answered, accepted)


def answers(answered: list[dict[str, Any]], accepted: set[str]) -> list[Finding]:
    """What pip-audit's answer comes to; a library that it passed over was not asked about."""
    passed = [one["name"] for one in answered if "vulns" not in one]
    found = [Finding("FAIL", "OSV, by pip-audit", f"knows nothing of {', '.join(passed)}")] if passed else []
    for one in answered:
        for known in one.get("vulns", []):
            names = {known["id"], *known.get("aliases", [])}
            level = "note" if names & accepted else "FAIL"
            found.append(
                Finding(
                    level, "OSV, by pip-audit", f"{one['name']} {one['version']}: {', '.join(sorted(names))}"
                )
            )
    return found or [
        Finding("ok", "OSV, by pip-audit", f"asked just now: nothing on {len(answered)} libraries")
    ]


def table(carried: dict[str, Any]) -> str:
    """The open advisories as a table in Markdown, and those that Debian has mended in a line."""
    lines = [
        "| advisory | in | what it is | mended in | what shields from it |",
        "| --- | --- | --- | --- | --- |",
    ]
    mended = []
    for package, known in carried["debian"].items():
        for one in known["advisories"]:
            if one["affected"]:
                lines.append(
                    f"| {one['id']} | {package} {known['version']} | {one['what']} | {one['fixed']} | {one['shield']} |"
                )
            else:
                mended.append(f"{one['id']} ({package} {one['fixed']})")
    return "\n".join([*lines, "", f"Mended by Debian: {', '.join(mended)}."])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make audit", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("deb", type=Path, nargs="?")
    parser.add_argument("--advisories", type=Path, default=HERE / "advisories.json")
    parser.add_argument("--lock", type=Path, default=HERE.parent / "vendor.lock")
    parser.add_argument("--offline", action="store_true", help="ask no service")
    parser.add_argument("--table", action="store_true", help="print the table of docs/security.md")
    return parser.parse_args()


def main() -> int:
    """Look at everything; 1 where anything failed."""
    options = _arguments()
    carried = json.loads(options.advisories.read_text(encoding="utf-8"))
    if options.table:
        sys.stdout.write(table(carried) + "\n")
        return 0
    text = shipped(options.deb)
    bill = json.loads(text)
    found = [by_schema(text), *by_lock(bill, options.lock.read_text(encoding="utf-8"))]
    found += [*by_carried(bill, carried, datetime.now(UTC).date()), *by_debian(carried)]
    accepted = {one["id"] for one in carried["vendored"] if one.get("accepted")}
    found += [] if options.offline else by_service(options.lock, accepted)
    for one in found:
        sys.stdout.write(f"{one.level:<5} {one.about:<19} {one.text}\n")
    return 1 if any(one.level == "FAIL" for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
