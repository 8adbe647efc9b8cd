"""The lists of entries in ddwd.yaml, `routes` and `destinations`: from their YAML nodes to values, every mistake named with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import yaml

from ddwd.config.parsers import (
    Parser,
    Raw,
    Source,
    WrongValueError,
    aet,
    choice,
    days_or_forever,
    folder,
    host,
    secret,
    switch,
    url,
    whole,
    wrong,
)
from ddwd.config.routing import CALLING, PRIORITIES, TAGS, Condition, Destination, Route

Say = Callable[[yaml.Node, str, str, str], None]
"""Told of a mistake: the node, the key, what is wrong, what to write instead."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_FIELDS = (
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "AccessionNumber", "StudyDate", "StudyID"),
    *("StudyDescription", "Modality", "StationName", "InstitutionName", "SeriesNumber", "SeriesDescription"),
)  # fmt: skip
"""What may stand in braces in a layout: nothing that names a person but the PatientID."""
_OF_A_FILE = frozenset(
    {"SeriesInstanceUID", "SOPInstanceUID", "Modality", "StationName", "SeriesNumber", "SeriesDescription"}
)
"""What differs between the images of one study: it may only stand after the folder that has the StudyInstanceUID."""
_TOUCHING = re.compile(r"\}\{|[0-9.]\{\w*UID\}|\{\w*UID\}[0-9.]")
"""Where a value could end in the middle of what comes after it: 1 and 12.3, or 11 and 2.3."""
_LITERAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def one_line(raw: Raw) -> NoReturn:
    """Refuse such a list in one line, as the environment would have it. Raises WrongValueError."""
    wrong(f"{raw.text!r} is not a list of entries", "write them in ddwd.yaml")


def _name(raw: Raw) -> str:
    if _NAME.fullmatch(raw.text) is None:
        wrong(f"{raw.text!r} is not a name", "write letters, digits, _ and -, 32 at most")
    return raw.text


def _layout(raw: Raw) -> str:
    """A path below OUTPUT_DIR, in which no two images can have one name."""
    parts = raw.text.split("/")
    used = re.findall(r"\{([^{}]*)\}", raw.text)
    if unknown := [one for one in used if one not in _FIELDS]:
        wrong(f"{{{unknown[0]}}} is not for a layout", f"known are {', '.join(_FIELDS)}")
    if not all(map(_is_part, parts)):
        wrong(
            f"{raw.text!r} is not a layout",
            "write folders of {Tag} and plain letters, parted by /, as research/{PatientID}/...",
        )
    study = next((at for at, part in enumerate(parts) if "{StudyInstanceUID}" in part), None)
    if study is None or study == len(parts) - 1 or "{SOPInstanceUID}" not in parts[-1]:
        wrong(
            "two images could have one name",
            "let one folder have {StudyInstanceUID} in it, and the last part {SOPInstanceUID}",
        )
    if "{PatientID}" not in "/".join(parts[: study + 1]):
        wrong(
            "two patients could share a folder",
            "let a folder at or above that of {StudyInstanceUID} have {PatientID} in it",
        )
    if _TOUCHING.search(raw.text):
        wrong(
            "two values would run into each other",
            "part them by a letter, _ or -, as {StudyDate}_{StudyInstanceUID}",
        )
    if early := [one for one in re.findall(r"\{(\w+)\}", "/".join(parts[: study + 1])) if one in _OF_A_FILE]:
        wrong(
            f"{{{early[0]}}} differs within a study",
            "let it stand after the folder that has {StudyInstanceUID}",
        )
    return raw.text


def _marker(raw: Raw) -> str:
    """A plain file name that no image has."""
    if _LITERAL.fullmatch(raw.text) is None or raw.text.endswith(".dcm"):
        wrong(
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
    "port": whole(1, 65535),
    "tls": switch,
}


_OF_DIMSE, _OF_DICOMWEB = ("aet", "host", "port", "tls"), ("user", "password")
"""Keys of the one kind, which say nothing of the other."""


class _Entries:
    """Walks a list of mappings."""

    def __init__(self, key: str, file: str, say: Say) -> None:
        self._key = key
        self._file = file
        self._say = say

    def of(self, node: yaml.Node) -> list[tuple[yaml.Node, dict[str, yaml.Node]]]:
        """Each entry's keys with their nodes, in the order of the list."""
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
            return []
        if not isinstance(node, yaml.SequenceNode):
            self._say(node, self._key, "is not a list", "write entries that begin with `- name: NAME`")
            return []
        return [(entry, self.mapping(entry)) for entry in node.value]

    def mapping(self, node: yaml.Node) -> dict[str, yaml.Node]:
        """The keys of one entry; what is wrong with it is told."""
        if not isinstance(node, yaml.MappingNode):
            self._say(
                node, self._key, "has an entry without keys", "write `- name: NAME`, and its other keys below"
            )
            return {}
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if str(key.value) in found:
                self._say(key, f"{self._key}.{key.value}", "is given twice", "keep one of the two lines")
            found[str(key.value)] = value
        return found

    def unknown(self, node: yaml.Node, key: str, known: tuple[str, ...]) -> None:
        """Tell of a key that nothing reads."""
        near = difflib.get_close_matches(key, known, n=1)
        instead = f"write {near[0]}" if near else f"known here: {', '.join(known)}"
        self._say(node, f"{self._key}.{key}", "is not a known key", instead)

    def value(self, key: str, node: yaml.Node, parse: Parser) -> Any:
        """One value, or None where there is none or it is wrong."""
        if not isinstance(node, yaml.ScalarNode):
            self._say(node, f"{self._key}.{key}", "has a list or a section for a value", "write one value")
        elif node.tag != "tag:yaml.org,2002:null":
            try:
                return parse(
                    Raw(node.value, node.style is None, Source(self._file, node.start_mark.line + 1))
                )
            except WrongValueError as error:
                self._say(node, f"{self._key}.{key}", error.what, error.instead)
        return None

    def texts(self, key: str, node: yaml.Node) -> tuple[str, ...]:
        """One text, or a list of them."""
        entries = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not all(isinstance(one, yaml.ScalarNode) for one in entries):
            self._say(
                node, f"{self._key}.{key}", "has more than texts in it", "write one text, or a list as [A, B]"
            )
            return ()
        return tuple(str(one.value) for one in entries)

    def names_differ(self, entries: list[tuple[yaml.Node, Any]]) -> None:
        """Tell of two entries of one name, and of one that has none."""
        seen = set()
        for node, one in entries:
            if one.name in seen:
                self._say(
                    node, f"{self._key}.name", f"{one.name!r} is used twice", "give each a name of its own"
                )
            seen.add(one.name)


def routes(node: yaml.Node, file: str, say: Say) -> tuple[Route, ...]:
    """The rules of `routes`, in their order."""
    walk = _Entries("routes", file, say)
    found = [(entry, _route(walk, entry, keys, say)) for entry, keys in walk.of(node)]
    walk.names_differ(found)
    return tuple(one for _, one in found)


def _route(walk: _Entries, entry: yaml.Node, keys: dict[str, yaml.Node], say: Say) -> Route:
    given: dict[str, Any] = {}
    for key, node in keys.items():
        if key == "when":
            given[key] = _conditions(walk, node, say)
        elif key == "also":
            given[key] = walk.texts(key, node)
        elif key in _ROUTE:
            given[key] = walk.value(key, node, _ROUTE[key])
        else:
            walk.unknown(node, key, (*_ROUTE, "when", "also"))
    if keys and "name" not in keys:
        say(entry, "routes", "has an entry without a name", "write `- name: NAME` first")
    route = Route(**{"name": "", **{key: value for key, value in given.items() if value is not None}})
    if route.extract and not route.forward:
        say(
            entry,
            "routes.extract",
            "what is not forwarded cannot be extracted",
            "write extract: false too, or forward: true",
        )
    if route.run and route.webhook:
        say(
            entry,
            "routes.webhook",
            "a rule has one hook",
            "leave out run or webhook, or let run call the other",
        )
    if (route.speaks or route.marker) and not route.extract:
        say(
            entry,
            "routes.run",
            "a study that is not extracted is never finished",
            "leave out run, webhook and marker, or write extract: true",
        )
    return route


def _conditions(walk: _Entries, node: yaml.Node, say: Say) -> tuple[Condition, ...]:
    found = []
    for tag, inner in walk.mapping(node).items():
        if tag != CALLING and tag not in TAGS:
            near = difflib.get_close_matches(tag, (CALLING, *TAGS), n=1)
            say(
                inner,
                f"routes.when.{tag}",
                "is not a main DICOM tag",
                f"write {near[0] if near else 'CallingAET, Modality, StationName ...'}",
            )
        found.append(Condition(tag, walk.texts(f"when.{tag}", inner)))
    return tuple(found)


def destinations(node: yaml.Node, file: str, say: Say) -> tuple[Destination, ...]:
    """The entries of `destinations`."""
    walk = _Entries("destinations", file, say)
    found = [(entry, _destination(walk, entry, keys, say)) for entry, keys in walk.of(node)]
    walk.names_differ(found)
    return tuple(one for _, one in found)


def _destination(walk: _Entries, entry: yaml.Node, keys: dict[str, yaml.Node], say: Say) -> Destination:
    given: dict[str, Any] = {}
    for key, node in keys.items():
        if key in _DESTINATION:
            given[key] = walk.value(key, node, _DESTINATION[key])
        else:
            walk.unknown(node, key, tuple(_DESTINATION))
    if keys and "name" not in keys:
        say(entry, "destinations", "has an entry without a name", "write `- name: NAME` first")
    one = Destination(**{"name": "", **{key: value for key, value in given.items() if value is not None}})
    if (one.url is None) == (one.aet is None or one.host is None):
        say(
            entry,
            "destinations",
            "is neither DICOMweb nor DIMSE",
            "write a url, or an aet with host and port",
        )
    else:
        _against_its_kind(one, keys, say)
    return one


def _against_its_kind(one: Destination, keys: dict[str, yaml.Node], say: Say) -> None:
    """Tell of what says nothing, or of a login that would be shown."""
    kind, strange = ("DIMSE", _OF_DICOMWEB) if one.url is None else ("DICOMweb", _OF_DIMSE)
    for key in strange:
        if key in keys:
            say(keys[key], f"destinations.{key}", f"is not for {kind}", "leave it out")
    if one.url is not None and ("@" in one.url or "?" in one.url):
        what, instead = "has a login or a query in it", "write user and password as keys of their own"
        say(keys["url"], "destinations.url", what, instead)
    if one.password is not None and one.user is None:
        say(keys["password"], "destinations.password", "has no user", "write user too")
    if one.ca is not None and not (one.tls or (one.url or "").startswith("https:")):
        what, instead = "is for what is encrypted", "write https:// in url, or tls: true"
        say(keys["ca"], "destinations.ca", what, instead)
