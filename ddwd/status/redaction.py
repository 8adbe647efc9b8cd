"""Remove secrets, patients' identifiers and paths of the output from a support bundle.

A second line of defence: no part of the portal logs them (audit.py, errors.py), but an operator's script inside Orthanc may, and
so may a message of the interpreter.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from ddwd.config.paths import PRIVATE
from ddwd.config.schema import SECRET_KEYS, flatten
from ddwd.core.model import identifier_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ddwd.config.schema import Config
    from ddwd.provisioning.credentials import Credentials

HIDDEN = "(hidden)"
_SECRET_KEY = re.compile(
    r"pass|secret|token|credential|authori[sz]|cookie|headers|registeredusers|(access|api|master|private|encryption)_?key|webhook",
    re.IGNORECASE,
)
"""Keys of any configuration below which every text counts as a secret."""
_LOGIN = re.compile(r"(?P<scheme>\w+://)?(?P<login>[^\s/@:]*:[^\s/@]+)@")
_PASSWORD = re.compile(r"(?P<key>password\s*=\s*)(?P<value>'[^']*'|\S+)", re.IGNORECASE)
_QUERY = re.compile(r"(?P<url>https?://[^\s?]+)\?(?P<query>\S+)")
_WITH_LOGINS = frozenset({"Servers", "OrthancPeers"})
"""Sections of Orthanc that may hold [URL, user, password]."""
_ASSIGNED = re.compile(
    r"^[ \t-]*\w*(?:password|webhook)[ \t]*[:=][ \t]*(?P<value>[^\s#].*?)(?:[ \t]+#.*)?$",
    re.IGNORECASE | re.MULTILINE,
)
_INLINE = re.compile(
    r"[{,][ \t]*\w*(?:password|webhook)[ \t]*:[ \t]*(?P<value>[^\s,}][^,}\n]*)", re.IGNORECASE
)
"""The same between braces."""
_SHORT = 6
_LONG_SEGMENT = 16
_LEAST = 4
"""Shortest identifier that is searched for; a shorter one would match parts of many numbers."""
_TOKEN = re.compile(r"[\w.%+#~-]+")
_PERSON = re.compile(r"[^\W\d_][\w.'-]*\^[\w^.'-]*")
"""A name in DICOM form: components separated by ^ (PS3.5 section 6.2, VR PN)."""


def secrets_of(config: Config, login: Credentials | None, texts: Iterable[str]) -> set[str]:
    """Return every secret of the settings, of the Orthancs, and of files that may not be valid."""
    values = flatten(config)
    found = {str(values[key]) for key in SECRET_KEYS if values[key] is not None}
    found |= {destination.password for destination in config.destinations if destination.password}
    found |= {route.webhook for route in config.routes if route.webhook}
    for text in texts:
        found |= {word.strip("\"'") for word in (*_ASSIGNED.findall(text), *_INLINE.findall(text))}
    for users in login.passwords.values() if login else ():
        found |= set(users.values())
    return found | {part for secret in found for part in _parts(secret)}


def _parts(secret: str) -> Iterator[str]:
    """Yield the secret parts of a URL, since an HTTP library may print one alone."""
    if not secret.startswith(("http://", "https://")):
        return
    url = urlsplit(secret)
    yield from (f"{url.path}?{url.query}" if url.query else url.path, url.password or "", url.query)
    yield from (segment for segment in url.path.split("/") if len(segment) >= _LONG_SEGMENT)


def patients(output: Path) -> set[str]:
    """Return the identifiers of the patients who have a folder there, in either form. Raises OSError if this user may not read it."""
    found = {entry.name for entry in os.scandir(output) if entry.name != PRIVATE}
    return found | {name for name in map(identifier_of, found) if name}


def without_secrets(tree: Any, found: set[str], keys: tuple[str, ...] = (), *, hide: bool = False) -> Any:
    """Return a configuration without its secrets, which are added to `found`. `keys` lead to this part of it."""
    hide = hide or any(map(_SECRET_KEY.search, keys[-1:]))
    if isinstance(tree, dict):
        return {
            key: without_secrets(value, found, (*keys, str(key)), hide=hide) for key, value in tree.items()
        }
    if isinstance(tree, list):
        logins = bool(_WITH_LOGINS & set(keys))
        return [
            without_secrets(value, found, keys, hide=hide or (logins and place > 0))
            for place, value in enumerate(tree)
        ]
    if not isinstance(tree, str):
        return tree
    if not hide:
        return _without_logins(tree, found)
    if not tree.startswith("/"):  # a key's path is not secret
        found.add(tree)
    return HIDDEN


def _without_logins(text: str, found: set[str]) -> str:
    """Return the text without logins of a URL, a proxy or a database's connection string."""
    found |= {match["login"].partition(":")[2] for match in _LOGIN.finditer(text)}
    found |= {match["value"].strip("'") for match in _PASSWORD.finditer(text)}
    found |= {match["query"] for match in _QUERY.finditer(text)}
    text = _LOGIN.sub(lambda match: f"{match['scheme'] or ''}{HIDDEN}@", text)
    return _QUERY.sub(rf"\g<url>?{HIDDEN}", _PASSWORD.sub(rf"\g<key>{HIDDEN}", text))


class Redactor:
    """Removes the given secrets and identifiers, and counts in `hidden` how often."""

    def __init__(self, secrets: Iterable[str], patients: Iterable[str], output: Path) -> None:
        self.hidden: Counter[str] = Counter()
        paths = re.compile(re.escape(str(output)) + r"/[^\s\"'<>]+")
        self._patterns = [("paths", paths, "OUTPUT_DIR/(left out)"), ("names", _PERSON, "(name)")]
        if (pattern := _any_of(secrets)) is not None:
            self._patterns.insert(0, ("secrets", pattern, HIDDEN))
        self._patients: defaultdict[str, list[str]] = defaultdict(list)
        for identifier in patients:
            if len(identifier) >= _LEAST and (token := _TOKEN.search(identifier)):
                self._patients[token[0].casefold()].append(identifier)

    def text(self, text: str) -> str:
        """Return the text without any of them."""
        for kind, pattern, replacement in self._patterns:
            text, count = pattern.subn(replacement, text)
            self.hidden[kind] += count
        return self._without_patients(text)

    def tree(self, value: Any) -> Any:
        """Return the value with every text in lists and sections redacted; keys and numbers stay."""
        if isinstance(value, dict):
            return {key: self.tree(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(inner) for inner in value]
        return self.text(value) if isinstance(value, str) else value

    def _without_patients(self, text: str) -> str:
        if not self._patients:
            return text
        parts, done = [], 0
        for token in _TOKEN.finditer(text):
            begin, end = self._patient_at(text, token)
            if begin >= done and end:
                parts += [text[done:begin], "(patient)"]
                done = end
                self.hidden["patients"] += 1
        return "".join([*parts, text[done:]])

    def _patient_at(self, text: str, token: re.Match[str]) -> tuple[int, int]:
        """Return begin and end of the identifier that contains this word; (0, 0) if there is none."""
        for word in {token[0], token[0].rstrip(".-")}:  # the end of a sentence
            for identifier in self._patients.get(word.casefold(), ()):
                begin = token.start() - identifier.casefold().find(word.casefold())
                end = begin + len(identifier)
                if begin >= 0 and text[begin:end].casefold() == identifier.casefold():
                    return begin, end
        return 0, 0


def _any_of(secrets: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern that finds each of them; a short one as a whole word only."""
    spelled = {form for secret in secrets if secret for form in (secret, quote(secret, safe=""))}
    parts = [
        re.escape(form) if len(form) >= _SHORT else rf"(?<!\w){re.escape(form)}(?!\w)"
        for form in sorted(spelled, key=len, reverse=True)
    ]
    return re.compile("|".join(parts)) if parts else None
