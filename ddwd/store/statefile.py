"""The only codec for state files: JSON with a schema number and, if the format has one, a checksum; replaced in one step.

A format is declared once, next to the dataclass that it stores, and used by the one writer and by all readers. The JSON keys are the
names of the dataclass's fields unless `stored` sets another; their order is the order of the fields, after `schema` and before
`checksum`. A missing key means the field's default, or damage if the field has none; unknown keys are ignored.
"""

from __future__ import annotations

import json
import logging
import types
import typing
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, fields, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, NewType, TypeVar, get_args, get_origin

from ddwd.core import durable, safe_folder
from ddwd.core.clock import stamp
from ddwd.core.errors import DamagedStateError, InvalidValueError, LinkedError, NewerStateError

log = logging.getLogger("ddwd.store")

Decoder = Callable[[Any], Any]

T = TypeVar("T")

_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_SCALARS = frozenset({str, int, float, bool, type(None)})
_METADATA_KEY = "ddwd.stored"


@dataclass(frozen=True, slots=True)
class FieldStorage:
    """How a field is stored; the defaults: as it is."""

    key: str = ""
    """The JSON key, if it is not the field's name."""
    omit_empty: bool = False
    """An empty value has no key."""
    listed_by: str = ""
    """A dictionary is stored as the list of its values; its keys are this attribute of each value."""
    blank: bool = False
    """None is stored as an empty object."""
    transient: bool = False
    """The field is not stored."""
    required: bool = False
    """A missing key is damage, although the field has a default."""


_AS_IT_IS = FieldStorage()


def stored(key: str = "", **options: Any) -> Mapping[str, FieldStorage]:
    """Return the `metadata` of a dataclass's field with the options of `FieldStorage`."""
    return {_METADATA_KEY: FieldStorage(key, **options)}


def how_stored(one: Field[Any]) -> FieldStorage:
    """Return how a dataclass's field is stored."""
    how: FieldStorage = one.metadata.get(_METADATA_KEY, _AS_IT_IS)
    return how


@dataclass(frozen=True)
class StateFormat(Generic[T]):
    """One kind of state file, which stores one `kind`: a dataclass or, for a table of texts, a dictionary.

    `noun` names it in errors. `reads` are the schemas that are read, by default `schema` alone; `any_schema` reads every one.
    """

    kind: type[T]
    noun: str
    schema: int | None = None
    reads: tuple[int, ...] = ()
    any_schema: bool = False
    checksum: bool = False
    indent: int | None = None

    def body(self, value: T) -> dict[str, Any]:
        """Return the JSON object of the file, with schema and checksum."""
        body: dict[str, Any] = {} if self.schema is None else {"schema": self.schema}
        body |= encode(value)
        if self.checksum:
            body["checksum"] = _checksum(body)
        return body

    def render(self, value: T) -> bytes:
        """Return the content of the file."""
        return json.dumps(self.body(value), indent=self.indent).encode("ascii") + b"\n"

    def parse(self, content: bytes, where: str) -> T:
        """Return the value that is stored as `content`; `where` is the path, for messages.

        Raises DamagedStateError, NewerStateError for a schema that this version does not read, and the errors of the dataclass.
        """
        try:
            body = json.loads(content)
            if self.checksum and body["checksum"] != _checksum(body):
                raise DamagedStateError(where, self.noun, "checksum")
            is_read = (
                self.any_schema or self.schema is None or body["schema"] in (self.reads or {self.schema})
            )
            if not is_read:
                raise NewerStateError(where, body["schema"], self.schema)
            value: T = decode(self.kind, body)
        except _DAMAGE as error:
            raise DamagedStateError(where, self.noun, type(error).__name__) from error
        return value

    def parse_input(self, content: bytes, where: str) -> T:
        """Parse a file that another user wrote. Raises InvalidValueError where `parse` raises StateError."""
        try:
            return self.parse(content, where)
        except DamagedStateError as error:
            raise InvalidValueError(f"it is damaged ({error.reason})") from error
        except NewerStateError as error:
            raise InvalidValueError("it is of another schema than this version reads") from error

    def read(self, path: Path) -> T | None:
        """Return the value of the file, None if there is no file. Raises OSError, and as `content` and `parse`."""
        content = self.content(path)
        return None if content is None else self.parse(content, str(path))

    def content(self, path: Path) -> bytes | None:
        """Return what is in the file, None if there is no file. Raises OSError.

        A link, or a pipe that would block the reader, is a DamagedStateError: other users may write to the folder of many of these files.
        """
        try:
            return safe_folder.read(path)
        except FileNotFoundError:
            return None
        except LinkedError as error:
            raise DamagedStateError(str(path), self.noun, "it is not a regular file") from error

    def read_or_none(self, path: Path) -> T | None:
        """Return the value of the file; None if there is no file, or none that this user or this version can read."""
        with suppress(OSError, DamagedStateError, NewerStateError):
            return self.read(path)
        return None

    def write(self, path: Path, value: T) -> None:
        """Replace the file durably, in one step. Raises StorageFullError and OSError."""
        durable.replace_file(path, self.render(value))

    def write_readable(self, path: Path, value: T) -> None:
        """Replace the file as `write` does, readable for all users whatever the umask: the permissions of the folder exclude others."""
        durable.replace_file(path, self.render(value), 0o644, exact_mode=True)

    def write_volatile(self, path: Path, value: T) -> None:
        """Replace a file on /run in one step; every user may read it, and it does not survive a power cut. Raises OSError."""
        durable.replace_volatile(path, self.render(value))

    def write_status(self, path: Path, value: T) -> None:
        """Replace a status file as `write_volatile` does. Never raises: without room on /run the work goes on, and its status is old."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.write_volatile(path, value)
        except OSError as error:
            log.warning("cannot write %s: %s", path, error.strerror)


def _checksum(body: dict[str, Any]) -> str:
    """Return the CRC32 of all other keys, whatever their layout in the file."""
    rest = {key: value for key, value in body.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode('ascii')):08x}"


# --- dataclasses to JSON ----------------------------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """Return the JSON value of a dataclass, or of the value of a field."""
    if type(value) in _SCALARS:
        return value
    if hasattr(value, "__dataclass_fields__"):
        return _encode_fields(value)
    if isinstance(value, Mapping):
        return {key: encode(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(one) for one in value]
    if isinstance(value, datetime):
        return stamp(value)
    return value


def _encode_fields(value: Any) -> dict[str, Any]:
    body = {}
    for name, how in _fields(value.__class__):
        one = getattr(value, name)
        if how.omit_empty and not one:
            continue
        if how.listed_by:
            body[how.key] = [encode(item) for item in one.values()]
        else:
            body[how.key] = {} if one is None and how.blank else encode(one)
    return body


@cache
def _fields(kind: Any) -> tuple[tuple[str, FieldStorage], ...]:
    """Return the stored fields of a dataclass, each with its JSON key and whether this is required filled in."""
    found = []
    for one in fields(kind):
        how = how_stored(one)
        required = how.required or (one.default is MISSING and one.default_factory is MISSING)
        if not how.transient:
            found.append((one.name, replace(how, key=how.key or one.name, required=required)))
    return tuple(found)


# --- JSON to dataclasses ----------------------------------------------------------------------------------------------


def decode(kind: Any, body: Any) -> Any:
    """Return `body` as a `kind`: a dataclass or the type of a field. Raises ValueError, KeyError or TypeError for anything else."""
    return _decoder(kind)(body)


@cache
def _decoder(kind: Any) -> Decoder:
    """Return the function that checks and converts a value of that type, which is built once."""
    if isinstance(kind, NewType):
        return _decoder(kind.__supertype__)
    if hasattr(kind, "__dataclass_fields__"):
        return _dataclass_decoder(kind)
    if get_origin(kind) is not None:
        return _generic_decoder(get_origin(kind), get_args(kind))
    if hasattr(kind, "_fields"):
        return _named_tuple_decoder(kind)
    return _PLAIN.get(kind) or _scalar_decoder(kind)


def _generic_decoder(origin: Any, arguments: tuple[Any, ...]) -> Decoder:
    if origin is Literal:  # the owner of the field decides on unknown texts
        return _scalar_decoder(str)
    if origin in {typing.Union, types.UnionType}:
        [inner] = [_decoder(one) for one in arguments if one is not type(None)]
        return lambda value: None if value is None else inner(value)
    if origin is dict:
        return _dict_decoder(*map(_decoder, arguments))
    return _list_decoder(origin, _decoder(arguments[0]))


def _scalar_decoder(kind: type) -> Decoder:
    allowed = {int, float} if kind is float else {kind}

    def scalar(value: Any) -> Any:
        if type(value) not in allowed:
            raise TypeError
        return value

    return scalar


def _aware_datetime(value: Any) -> datetime:
    found = datetime.fromisoformat(value)
    if found.tzinfo is None:
        raise ValueError
    return found


_PLAIN: dict[Any, Decoder] = {Any: lambda value: value, datetime: _aware_datetime}


def _list_decoder(kind: type, inner: Decoder) -> Decoder:
    def items(value: Any) -> Any:
        if type(value) is not list:
            raise TypeError
        return kind(map(inner, value))

    return items


def _dict_decoder(key: Decoder, inner: Decoder) -> Decoder:
    return lambda value: {key(name): inner(one) for name, one in value.items()}


def _named_tuple_decoder(kind: Any) -> Decoder:
    inner = [_decoder(hint) for hint in typing.get_type_hints(kind).values()]
    return lambda value: kind(*(one(item) for one, item in zip(inner, value, strict=True)))


def _dataclass_decoder(kind: Any) -> Decoder:
    hints = typing.get_type_hints(kind)
    plan = [(how.key, name, _field_decoder(hints[name], how), how.required) for name, how in _fields(kind)]

    def instance(value: Any) -> Any:
        if type(value) is not dict:
            raise TypeError
        found = {
            name: inner(value[key]) for key, name, inner, is_required in plan if is_required or key in value
        }
        return kind(**found)

    return instance


def _field_decoder(hint: Any, how: FieldStorage) -> Decoder:
    if how.listed_by:
        inner = _decoder(get_args(hint)[1])
        return lambda value: {getattr(one, how.listed_by): one for one in map(inner, value)}
    inner = _decoder(hint)
    return (lambda value: inner(value or None)) if how.blank else inner
