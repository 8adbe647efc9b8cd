"""Read the lists of entries in ddwd.yaml, `routes` and `destinations`: from YAML nodes to values; each mistake is reported with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, TypeVar

import yaml

from ddwd.config import parsers
from ddwd.config.parsers import Parser, Raw, Source, WrongValueError, reject
from ddwd.config.routing import CALLING, PRIORITIES, TAGS, Destination, Route, TagCondition

_Entry = TypeVar("_Entry", Route, Destination)
Report = Callable[[yaml.Node, str, str, str], None]
"""Reports a mistake: the node, the key, the reason, what to write instead."""

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
_LITERAL = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"


def one_line(raw: Raw) -> NoReturn:
    """Refuse such a list in one line, as an environment variable has it. Raises WrongValueError."""
    reject(f"{raw.text!r} is not a list of entries", "write them in ddwd.yaml")


_name = parsers.text(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", "a name", "letters, digits, _ and -, 32 at most")
_marker = parsers.text(
    _LITERAL + r"(?<!\.dcm)", "a name for a marker", "letters, digits, _, - and dots, as study.done"
)


def _layout(raw: Raw) -> str:
    """Parse a path below OUTPUT_DIR in which no two images can have one name."""
    parts = raw.text.split("/")
    if unknown := [tag for tag in re.findall(r"\{([^{}]*)\}", raw.text) if tag not in _FIELDS]:
        reject(f"{{{unknown[0]}}} is not for a layout", f"write one of {', '.join(_FIELDS)}")
    if not all(re.fullmatch(_LITERAL, re.sub(r"\{\w+\}", "X", part)) for part in parts):
        instead = "write folders of {Tag} and plain letters, parted by /, as research/{PatientID}/..."
        reject(f"{raw.text!r} is not a layout", instead)
    study = next((at for at, part in enumerate(parts) if "{StudyInstanceUID}" in part), None)
    if study is None or study == len(parts) - 1 or "{SOPInstanceUID}" not in parts[-1]:
        instead = "write {StudyInstanceUID} in one folder, and {SOPInstanceUID} in the last part"
        reject("two images could have one name", instead)
    folders = "/".join(parts[: study + 1])
    if "{PatientID}" not in folders:
        instead = "write {PatientID} in a folder at or above that of {StudyInstanceUID}"
        reject("two patients could share a folder", instead)
    if _TOUCHING.search(raw.text):
        instead = "separate them by a letter, _ or -, as {StudyDate}_{StudyInstanceUID}"
        reject("two values would run into each other", instead)
    if early := [tag for tag in re.findall(r"\{(\w+)\}", folders) if tag in _OF_AN_INSTANCE]:
        instead = "write it after the folder that has {StudyInstanceUID}"
        reject(f"{{{early[0]}}} differs within a study", instead)
    return raw.text


_ROUTE: Mapping[str, Parser] = {
    "name": _name,
    "forward": parsers.switch,
    "extract": parsers.switch,
    "layout": _layout,
    "priority": parsers.choice(*PRIORITIES),
    "run": parsers.folder,
    "webhook": parsers.url,
    "marker": _marker,
    "keep_gateway": parsers.days_or_forever,
    "keep_storage": parsers.days_or_forever,
    "keep_output": parsers.days_or_forever,
}
_DESTINATION: Mapping[str, Parser] = {
    "name": _name,
    "url": parsers.url,
    "user": parsers.secret,
    "password": parsers.secret,
    "ca": parsers.folder,
    "aet": parsers.aet,
    "host": parsers.host,
    "port": parsers.PORT,
    "tls": parsers.switch,
}
_OF_DIMSE, _OF_DICOMWEB = ("aet", "host", "port", "tls"), ("user", "password")
"""Keys that destinations of one kind have and those of the other do not."""


class _Written(NamedTuple):
    """An entry as written: its node, and its keys with their nodes."""

    node: yaml.Node
    keys: dict[str, yaml.Node]


class _EntryReader:
    """Reads a list of mappings."""

    def __init__(self, key: str, file: str, report: Report) -> None:
        self._key = key
        self._file = file
        self._report = report

    def read(
        self,
        node: yaml.Node,
        kind: type[_Entry],
        values: Mapping[str, Parser],
        others: Mapping[str, Callable[[str, yaml.Node], object]],
    ) -> list[tuple[_Written, _Entry]]:
        """Return each entry as written and as a value; `values` parse the keys of one value, `others` all other keys."""
        if is_null(node):
            return []
        if not isinstance(node, yaml.SequenceNode):
            self._report(node, self._key, "is not a list", "write entries that begin with `- name: NAME`")
            return []
        found = []
        for entry in node.value:
            written = _Written(entry, self.mapping(entry))
            given: dict[str, Any] = {"name": ""}
            for key, below in written.keys.items():
                if key in others:
                    given[key] = others[key](key, below)
                elif key not in values:
                    self._unknown(below, key, (*values, *others))
                elif (value := self._value(key, below, values[key])) is not None:
                    given[key] = value
            if written.keys and "name" not in written.keys:
                self._report(entry, self._key, "has an entry without a name", "write `- name: NAME` first")
            found.append((written, kind(**given)))
        self._same_names(found)
        return found

    def mapping(self, node: yaml.Node) -> dict[str, yaml.Node]:
        """Return the keys of one entry with their nodes; report mistakes in it."""
        if not isinstance(node, yaml.MappingNode):
            instead = "write `- name: NAME`, and its other keys below"
            self._report(node, self._key, "has an entry without keys", instead)
            return {}
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if str(key.value) in found:
                self._report(key, f"{self._key}.{key.value}", "is given twice", "keep one of the two lines")
            found[str(key.value)] = value
        return found

    def texts(self, key: str, node: yaml.Node) -> tuple[str, ...]:
        """Return one text or a list of texts, as a tuple."""
        entries = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if all(isinstance(entry, yaml.ScalarNode) for entry in entries):
            return tuple(str(entry.value) for entry in entries)
        instead = "write one text, or a list as [A, B]"
        self._report(node, f"{self._key}.{key}", "has more than texts in it", instead)
        return ()

    def conditions(self, _key: str, node: yaml.Node) -> tuple[TagCondition, ...]:
        """Return the conditions of a route."""
        found = []
        for tag, inner in self.mapping(node).items():
            if tag not in (CALLING, *TAGS):
                near = difflib.get_close_matches(tag, (CALLING, *TAGS), n=1)
                instead = f"write {near[0] if near else 'CallingAET, Modality, StationName ...'}"
                self._report(inner, f"{self._key}.when.{tag}", "is not a main DICOM tag", instead)
            found.append(TagCondition(tag, self.texts(f"when.{tag}", inner)))
        return tuple(found)

    def _unknown(self, node: yaml.Node, key: str, keys: tuple[str, ...]) -> None:
        near = difflib.get_close_matches(key, keys, n=1)
        instead = f"write {near[0]}" if near else f"known here: {', '.join(keys)}"
        self._report(node, f"{self._key}.{key}", "is not a known key", instead)

    def _value(self, key: str, node: yaml.Node, parse: Parser) -> object:
        """Return one value; None if it is empty or refused."""
        if not isinstance(node, yaml.ScalarNode):
            self._report(node, f"{self._key}.{key}", "has a list or a section for a value", "write one value")
        elif not is_null(node):
            try:
                return parse(Raw(node.value, node.style is None, Source(self._file, line_of(node))))
            except WrongValueError as error:
                self._report(node, f"{self._key}.{key}", error.what, error.instead)
        return None

    def _same_names(self, entries: Iterable[tuple[_Written, Route | Destination]]) -> None:
        """Report two entries of one name."""
        seen = set()
        for written, value in entries:
            if value.name in seen:
                what = f"{value.name!r} is used twice"
                self._report(written.node, f"{self._key}.name", what, "give each a name of its own")
            seen.add(value.name)


def is_null(node: yaml.Node) -> bool:
    """Return whether a key has no value."""
    return bool(node.tag == "tag:yaml.org,2002:null")


def line_of(node: yaml.Node) -> int:
    """Return the line that a node begins on."""
    return int(node.start_mark.line) + 1


def routes(node: yaml.Node, file: str, report: Report) -> tuple[Route, ...]:
    """Return the entries of `routes`, in their order."""
    reader = _EntryReader("routes", file, report)
    found = reader.read(node, Route, _ROUTE, {"when": reader.conditions, "also": reader.texts})
    for written, route in found:
        if route.extract and not route.forward:
            what, instead = (
                "what is not forwarded cannot be extracted",
                "extract: false too, or forward: true",
            )
            report(written.node, "routes.extract", what, f"write {instead}")
        if route.run and route.webhook:
            instead = "leave out run or webhook, or let run call the other"
            report(written.node, "routes.webhook", "a route has one hook", instead)
        if (route.has_hook or route.marker) and not route.extract:
            what = "a study that is not extracted is never finished"
            instead = "leave out run, webhook and marker, or write extract: true"
            report(written.node, "routes.run", what, instead)
    return tuple(route for _, route in found)


def destinations(node: yaml.Node, file: str, report: Report) -> tuple[Destination, ...]:
    """Return the entries of `destinations`."""
    found = _EntryReader("destinations", file, report).read(node, Destination, _DESTINATION, {})
    for written, value in found:
        if (value.url is None) == (value.aet is None or value.host is None):
            instead = "write a url, or an aet with host and port"
            report(written.node, "destinations", "is neither DICOMweb nor DIMSE", instead)
        else:
            _keys_of_the_other_kind(value, written.keys, report)
    return tuple(value for _, value in found)


def _keys_of_the_other_kind(value: Destination, keys: dict[str, yaml.Node], report: Report) -> None:
    """Report keys that do not apply to this destination, and a login that a URL would show."""
    kind, foreign = ("DIMSE", _OF_DICOMWEB) if value.url is None else ("DICOMweb", _OF_DIMSE)
    for key in foreign:
        if key in keys:
            report(keys[key], f"destinations.{key}", f"is not for {kind}", "leave it out")
    if value.url is not None and ("@" in value.url or "?" in value.url):
        what, instead = "has a login or a query in it", "write user and password as keys of their own"
        report(keys["url"], "destinations.url", what, instead)
    if value.password is not None and value.user is None:
        report(keys["password"], "destinations.password", "has no user", "write user too")
    if value.ca is not None and not (value.tls or (value.url or "").startswith("https:")):
        what, instead = "is for what is encrypted", "write https:// in url, or tls: true"
        report(keys["ca"], "destinations.ca", what, instead)
