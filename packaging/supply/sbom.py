"""The software bill of materials in the .deb: /usr/share/ddwd/sbom.cdx.json, CycloneDX 1.6. Called by packaging/build-deb.

    sbom.py WHEELS DEBIAN OUT    folders of the vendored wheels and of debian/control and changelog; the file to write

Names every vendored library with the SHA-256 of the wheel it was unpacked from, its licence and what it needs, and every
package of Debian that the .deb depends on or recommends, with the range it asks for. Standard library only. The same sources
give the same bytes: the time is that of debian/changelog, the serial number follows from the content.
"""

from __future__ import annotations

import email.parser
import email.utils
import hashlib
import json
import re
import sys
import uuid
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from email.message import Message

_CLASSIFIERS = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
}
_NAMESPACE = uuid.UUID("6f1d7c1e-6a0f-5c8e-9b0b-3d1f6f0c5a21")


class Vendored(NamedTuple):
    """One wheel: what it calls itself, the SHA-256 of its file, its licence in SPDX words, the names it needs."""

    name: str
    version: str
    digest: str
    licence: str
    needs: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Its name in every list of advisories."""
        return f"pkg:pypi/{self.name}@{self.version}"


class Package(NamedTuple):
    """One package of Debian: its name, the range asked for ("" where any will do), and whether it must be there."""

    name: str
    range: str
    required: bool

    @property
    def purl(self) -> str:
        """Its name in every list of advisories; the version is whatever the machine has."""
        return f"pkg:deb/debian/{self.name}?distro=trixie"


def bill(wheels: Path, debian: Path) -> dict[str, Any]:
    """The whole document."""
    vendored = sorted(map(read_wheel, wheels.glob("*.whl")))
    packages = read_control(debian / "control")
    version, time = read_changelog(debian / "changelog")
    own = {
        "type": "application", "bom-ref": f"pkg:deb/ddwd@{version}?arch=all", "name": "ddwd", "version": version,
        "purl": f"pkg:deb/ddwd@{version}?arch=all", "licenses": [{"license": {"id": "MIT"}}],
        "description": "D-DW-D Portal: DIMSE in, DICOMweb across, files on disk",
    }  # fmt: skip
    parts: list[Vendored | Package] = [*vendored, *packages]
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": time, "component": own},
        "components": [*map(_of_wheel, vendored), *map(_of_package, packages)],
        "dependencies": [
            {"ref": own["bom-ref"], "dependsOn": [part.purl for part in parts]},
            *({"ref": one.purl, "dependsOn": _known(one.needs, vendored)} for one in vendored),
            *({"ref": one.purl} for one in packages),
        ],
    }
    serial = uuid.uuid5(_NAMESPACE, json.dumps(document, sort_keys=True))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "serialNumber": f"urn:uuid:{serial}",
    } | document


def read_wheel(path: Path) -> Vendored:
    """Look into a wheel. Raises ValueError where it does not say under which licence it comes."""
    with zipfile.ZipFile(path) as wheel:
        name = next(one for one in wheel.namelist() if one.endswith(".dist-info/METADATA"))
        said = email.parser.BytesParser().parsebytes(wheel.read(name), headersonly=True)
    needs = (line for line in said.get_all("Requires-Dist", []) if "extra ==" not in line)
    return Vendored(
        normal(said["Name"]),
        said["Version"],
        hashlib.sha256(path.read_bytes()).hexdigest(),
        _licence(path.name, said),
        tuple(sorted({normal(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]) for line in needs})),
    )


def _licence(name: str, said: Message) -> str:
    told = said["License-Expression"]
    told = told or next(
        (_CLASSIFIERS[line] for line in said.get_all("Classifier", []) if line in _CLASSIFIERS), None
    )
    if not told:
        raise ValueError(f"{name} names no licence: look it up, and add its classifier here")
    return str(told)


def read_control(path: Path) -> list[Package]:
    """The packages in Depends and Recommends, without those that debhelper fills in."""
    found = []
    for field, required in (("Depends", True), ("Recommends", False)):
        written = re.search(rf"^{field}:((?:.|\n )*)", path.read_text(encoding="utf-8"), re.MULTILINE)
        for word in written[1].split(",") if written else ():
            told = re.fullmatch(r"([a-z0-9][a-z0-9+.-]*)(?: \(([^)]*)\))?", word.strip())
            if told:
                found.append(Package(told[1], told[2] or "", required))
    return sorted(found)


def read_changelog(path: Path) -> tuple[str, str]:
    """Version and time (UTC, ISO 8601) of the newest entry."""
    text = path.read_text(encoding="utf-8")
    version, time = re.match(r"ddwd \(([^)]*)\)", text), re.search(r"^ -- .*>  (.*)$", text, re.MULTILINE)
    if version is None or time is None:
        raise ValueError(f"{path}: no version or no time in the newest entry")
    return version[1], email.utils.parsedate_to_datetime(time[1]).isoformat().replace("+00:00", "Z")


def normal(name: str) -> str:
    """A library's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _of_wheel(one: Vendored) -> dict[str, Any]:
    return {
        "type": "library", "bom-ref": one.purl, "name": one.name, "version": one.version, "scope": "required",
        "hashes": [{"alg": "SHA-256", "content": one.digest}], "licenses": [{"license": {"id": one.licence}}],
        "purl": one.purl,
        "properties": [{"name": "ddwd:origin", "value": "vendored in /usr/lib/ddwd/vendor from this wheel"}],
    }  # fmt: skip


def _of_package(one: Package) -> dict[str, Any]:
    asked = [{"name": "ddwd:version-range", "value": one.range}] if one.range else []
    return {
        "type": "library", "bom-ref": one.purl, "name": one.name, "scope": "required" if one.required else "optional",
        "purl": one.purl, "properties": [{"name": "ddwd:origin", "value": "a package of Debian"}, *asked],
    }  # fmt: skip


def _known(names: tuple[str, ...], vendored: list[Vendored]) -> list[str]:
    return [one.purl for one in vendored if one.name in names]


def main() -> None:
    """Write the file."""
    wheels, debian, out = map(Path, sys.argv[1:4])
    out.write_text(json.dumps(bill(wheels, debian), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
