"""Read the lists of entries in ddwd.yaml, `routes` and `destinations`: from YAML nodes to values; each mistake is reported with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import yaml

from ddwd.config.parsers import (
    PORT,
    Parser,
    Raw,
    Source,
    WrongValueError,
    aet,
    choice,
    days_or_forever,
    folder,
    host,
    reject,
    secret,
    switch,
    url,
)
from ddwd.config.routing import CALLING, PRIORITIES, TAGS, Destination, Route, TagCondition

Report = Callable[[yaml.Node, str, str, str], None]
"""Reports a mistake: the node, the key, the reason, what to write instead."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_FIELDS = (
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "AccessionNumber", "StudyDate", "StudyID"),
    *("StudyDescription", "Modality", "StationName", "InstitutionName", "SeriesNumber", "SeriesDescription"),
)  # fmt: skip
"""Tags that a layout may have in braces: of those that identify a person only PatientID."""
_OF_AN_INSTANCE = frozenset(
    {"SeriesInstanceUID", "SOPInstanceUID", "Modality", "StationName", "SeriesNumber", "SeriesDescription"}
)
"""Tags that differ between the images of one study: allowed only below the folder that has the StudyInstanceUID."""
_TOUCHING = re.compile(r"\}\{|[0-9.]\{\w*UID\}|\{\w*UID\}[0-9.]")
"""Two values without a separator, which are ambiguous: 1 and 12.3, or 11 and 2.3."""
_LITERAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def one_line(raw: Raw) -> NoReturn:
    """Refuse such a list in one line, as an environment variable has it. Raises WrongValueError."""
    reject(f"{raw.text!r} is not a list of entries", "write them in ddwd.yaml")


def _name(raw: Raw) -> str:
    if _NAME.fullmatch(raw.text) is None:
        reject(f"{raw.text!r} is not a name", "write letters, digits, _ and -, 32 at most")
    return raw.text


def _layout(raw: Raw) -> str:
    """Parse a path below OUTPUT_DIR in which no two images can have one name."""
    parts = raw.text.split("/")
    used = re.findall(r"\{([^{}]*)\}", raw.text)
    if unknown := [one for one in used if one not in _FIELDS]:
        reject(f"{{{unknown[0]}}} is not for a layout", f"known are {', '.join(_FIELDS)}")
    if not all(map(_is_part, parts)):
        reject(
            f"{raw.text!r} is not a layout",
            "write folders of {Tag} and plain letters, parted by /, as research/{PatientID}/...",
        )
    study = next((at for at, part in enumerate(parts) if "{StudyInstanceUID}" in part), None)
    if study is None or study == len(parts) - 1 or "{SOPInstanceUID}" not in parts[-1]:
        reject(
            "two images could have one name",
            "let one folder have {StudyInstanceUID} in it, and the last part {SOPInstanceUID}",
        )
    if "{PatientID}" not in "/".join(parts[: study + 1]):
        reject(
            "two patients could share a folder",
            "let a folder at or above that of {StudyInstanceUID} have {PatientID} in it",
        )
    if _TOUCHING.search(raw.text):
        reject(
            "two values would run into each other",
            "part them by a letter, _ or -, as {StudyDate}_{StudyInstanceUID}",
        )
    if early := [
        one for one in re.findall(r"\{(\w+)\}", "/".join(parts[: study + 1])) if one in _OF_AN_INSTANCE
    ]:
        reject(
            f"{{{early[0]}}} differs within a study",
            "let it stand after the folder that has {StudyInstanceUID}",
        )
    return raw.text


def _marker(raw: Raw) -> str:
    """Parse a plain file name that no image has."""
    if _LITERAL.fullmatch(raw.text) is None or raw.text.endswith(".dcm"):
        reject(
            f"{raw.text!r} is not a name for a marker", "write letters, digits, _, - and dots, as study.done"
        )
    return raw.text


def _is_part(part: str) -> bool:
    return _LITERAL.fullmatch(re.sub(r"\{\w+\}", "X", part)) is not None


_ROUTE: Mapping[str, Parser] = {
    "name": _name,
    "forward": switch,
    "extract": switch,
    "layout": _layout,
    "priority": choice(*PRIORITIES),
    "run": folder,
    "webhook": url,
    "marker": _marker,
    "keep_gateway": days_or_forever,
    "keep_storage": days_or_forever,
    "keep_output": days_or_forever,
}
_DESTINATION: Mapping[str, Parser] = {
    "name": _name,
    "url": url,
    "user": secret,
    "password": secret,
    "ca": folder,
    "aet": aet,
    "host": host,
    "port": PORT,
    "tls": switch,
}


_OF_DIMSE, _OF_DICOMWEB = ("aet", "host", "port", "tls"), ("user", "password")
"""Keys that destinations of one kind have and those of the other do not."""


class _EntryReader:
    """Reads a list of mappings."""

    def __init__(self, key: str, file: str, report: Report) -> None:
        self._key = key
        self._file = file
        self._report = report

    def of(self, node: yaml.Node) -> list[tuple[yaml.Node, dict[str, yaml.Node]]]:
        """Return each entry's node, and its keys with their nodes, in the order of the list."""
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
            return []
        if not isinstance(node, yaml.SequenceNode):
            self._report(node, self._key, "is not a list", "write entries that begin with `- name: NAME`")
            return []
        return [(entry, self.mapping(entry)) for entry in node.value]

    def mapping(self, node: yaml.Node) -> dict[str, yaml.Node]:
        """Return the keys of one entry with their nodes; report mistakes in it."""
        if not isinstance(node, yaml.MappingNode):
            self._report(
                node, self._key, "has an entry without keys", "write `- name: NAME`, and its other keys below"
            )
            return {}
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if str(key.value) in found:
                self._report(key, f"{self._key}.{key.value}", "is given twice", "keep one of the two lines")
            found[str(key.value)] = value
        return found

    def unknown(self, node: yaml.Node, key: str, known: tuple[str, ...]) -> None:
        """Report a key that is not known."""
        near = difflib.get_close_matches(key, known, n=1)
        instead = f"write {near[0]}" if near else f"known here: {', '.join(known)}"
        self._report(node, f"{self._key}.{key}", "is not a known key", instead)

    def value(self, key: str, node: yaml.Node, parse: Parser) -> Any:
        """Return one value; None if it is empty or refused."""
        if not isinstance(node, yaml.ScalarNode):
            self._report(node, f"{self._key}.{key}", "has a list or a section for a value", "write one value")
        elif node.tag != "tag:yaml.org,2002:null":
            try:
                return parse(
                    Raw(node.value, node.style is None, Source(self._file, node.start_mark.line + 1))
                )
            except WrongValueError as error:
                self._report(node, f"{self._key}.{key}", error.what, error.instead)
        return None

    def texts(self, key: str, node: yaml.Node) -> tuple[str, ...]:
        """Return one text or a list of texts, as a tuple."""
        entries = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not all(isinstance(one, yaml.ScalarNode) for one in entries):
            self._report(
                node, f"{self._key}.{key}", "has more than texts in it", "write one text, or a list as [A, B]"
            )
            return ()
        return tuple(str(one.value) for one in entries)

    def names_differ(self, entries: list[tuple[yaml.Node, Any]]) -> None:
        """Report two entries of one name."""
        seen = set()
        for node, one in entries:
            if one.name in seen:
                self._report(
                    node, f"{self._key}.name", f"{one.name!r} is used twice", "give each a name of its own"
                )
            seen.add(one.name)


def routes(node: yaml.Node, file: str, report: Report) -> tuple[Route, ...]:
    """Return the rules of `routes`, in their order."""
    reader = _EntryReader("routes", file, report)
    found = [(entry, _route(reader, entry, keys, report)) for entry, keys in reader.of(node)]
    reader.names_differ(found)
    return tuple(one for _, one in found)


def _route(reader: _EntryReader, entry: yaml.Node, keys: dict[str, yaml.Node], report: Report) -> Route:
    given: dict[str, Any] = {}
    for key, node in keys.items():
        if key == "when":
            given[key] = _conditions(reader, node, report)
        elif key == "also":
            given[key] = reader.texts(key, node)
        elif key in _ROUTE:
            given[key] = reader.value(key, node, _ROUTE[key])
        else:
            reader.unknown(node, key, (*_ROUTE, "when", "also"))
    if keys and "name" not in keys:
        report(entry, "routes", "has an entry without a name", "write `- name: NAME` first")
    route = Route(**{"name": "", **{key: value for key, value in given.items() if value is not None}})
    if route.extract and not route.forward:
        report(
            entry,
            "routes.extract",
            "what is not forwarded cannot be extracted",
            "write extract: false too, or forward: true",
        )
    if route.run and route.webhook:
        report(
            entry,
            "routes.webhook",
            "a rule has one hook",
            "leave out run or webhook, or let run call the other",
        )
    if (route.has_hook or route.marker) and not route.extract:
        report(
            entry,
            "routes.run",
            "a study that is not extracted is never finished",
            "leave out run, webhook and marker, or write extract: true",
        )
    return route


def _conditions(reader: _EntryReader, node: yaml.Node, report: Report) -> tuple[TagCondition, ...]:
    found = []
    for tag, inner in reader.mapping(node).items():
        if tag != CALLING and tag not in TAGS:
            near = difflib.get_close_matches(tag, (CALLING, *TAGS), n=1)
            report(
                inner,
                f"routes.when.{tag}",
                "is not a main DICOM tag",
                f"write {near[0] if near else 'CallingAET, Modality, StationName ...'}",
            )
        found.append(TagCondition(tag, reader.texts(f"when.{tag}", inner)))
    return tuple(found)


def destinations(node: yaml.Node, file: str, report: Report) -> tuple[Destination, ...]:
    """Return the entries of `destinations`."""
    reader = _EntryReader("destinations", file, report)
    found = [(entry, _destination(reader, entry, keys, report)) for entry, keys in reader.of(node)]
    reader.names_differ(found)
    return tuple(one for _, one in found)


def _destination(
    reader: _EntryReader, entry: yaml.Node, keys: dict[str, yaml.Node], report: Report
) -> Destination:
    given: dict[str, Any] = {}
    for key, node in keys.items():
        if key in _DESTINATION:
            given[key] = reader.value(key, node, _DESTINATION[key])
        else:
            reader.unknown(node, key, tuple(_DESTINATION))
    if keys and "name" not in keys:
        report(entry, "destinations", "has an entry without a name", "write `- name: NAME` first")
    one = Destination(**{"name": "", **{key: value for key, value in given.items() if value is not None}})
    if (one.url is None) == (one.aet is None or one.host is None):
        report(
            entry,
            "destinations",
            "is neither DICOMweb nor DIMSE",
            "write a url, or an aet with host and port",
        )
    else:
        _keys_of_the_other_kind(one, keys, report)
    return one


def _keys_of_the_other_kind(one: Destination, keys: dict[str, yaml.Node], report: Report) -> None:
    """Report keys that do not apply to this destination, and a login that a URL would show."""
    kind, foreign = ("DIMSE", _OF_DICOMWEB) if one.url is None else ("DICOMweb", _OF_DIMSE)
    for key in foreign:
        if key in keys:
            report(keys[key], f"destinations.{key}", f"is not for {kind}", "leave it out")
    if one.url is not None and ("@" in one.url or "?" in one.url):
        what, instead = "has a login or a query in it", "write user and password as keys of their own"
        report(keys["url"], "destinations.url", what, instead)
    if one.password is not None and one.user is None:
        report(keys["password"], "destinations.password", "has no user", "write user too")
    if one.ca is not None and not (one.tls or (one.url or "").startswith("https:")):
        what, instead = "is for what is encrypted", "write https:// in url, or tls: true"
        report(keys["ca"], "destinations.ca", what, instead)
