"""Parse one value of ddwd.yaml: from its text to a number, a path or a network, or refuse it and say what to write instead. Pure.

Each parser takes a `Raw` and raises WrongValueError; schema.py says which setting has which parser.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from ddwd.core.errors import InvalidValueError
from ddwd.core.model import parse_aet

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LAST_PORT = 65535
_EVERY_ADDRESS = ipaddress.IPv4Network("0.0.0.0/0")


class Source(NamedTuple):
    """Where a value was written: a file and its line, a variable of the environment, or the default."""

    name: str
    line: int | None = None

    def __str__(self) -> str:
        return self.name if self.line is None else f"{self.name}:{self.line}"


DEFAULT = Source("default")


@dataclass(frozen=True, slots=True)
class Share:
    """Space on a volume: `percent` of it, or if that is 0, `bytes`; `text` is as in ddwd.yaml."""

    text: str
    percent: float = 0.0
    bytes: int = 0

    def __str__(self) -> str:
        return self.text

    def of(self, total: int) -> int:
        """Return the bytes of a volume of `total` bytes."""
        return int(total * self.percent / 100) if self.percent else self.bytes


@dataclass(frozen=True, slots=True)
class Sender:
    """One entry of `senders`: an AE title, in which * and ? are wildcards, and the network it may send from."""

    aet: str
    network: ipaddress.IPv4Network = _EVERY_ADDRESS

    def __str__(self) -> str:
        return f"{self.aet} from {self.network}" if self.network.prefixlen else self.aet

    @property
    def is_pattern(self) -> bool:
        """Whether it may match several AE titles."""
        return bool(set("*?") & set(self.aet))


@dataclass(frozen=True, slots=True)
class Station:
    """One entry of `commitment.modalities`: an AE title, and where it accepts associations."""

    aet: str
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.aet} at {self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Receiver:
    """One entry of `extractors`: the AE title of a receiver on another machine, and that machine."""

    aet: str
    host: str

    def __str__(self) -> str:
        return f"{self.aet} at {self.host}"


class Raw(NamedTuple):
    """A value as written: its text, whether it is without quotes (numbers must be), and where it was written."""

    text: str
    bare: bool
    source: Source
    variable: str | None = None


class Many(NamedTuple):
    """The entries of a list as written, and where the list begins."""

    entries: tuple[Raw, ...]
    source: Source
    variable: str | None = None


class WrongValueError(Exception):
    """A value that is refused: the reason, and what to write instead."""

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what)
        self.what = what
        self.instead = instead


Parser = Callable[[Raw], object]


def reject(what: str, instead: str) -> NoReturn:
    """Refuse a value: the reason, and what to write instead. Raises WrongValueError."""
    raise WrongValueError(what, instead)


def text(pattern: str, kind: str, instead: str) -> Parser:
    """Return a parser of text that matches a regular expression."""

    def parse(raw: Raw) -> str:
        if re.fullmatch(pattern, raw.text) is None:
            reject(f"{raw.text!r} is not {kind}", f"write {instead}")
        return raw.text

    return parse


def whole(low: int, high: int) -> Parser:
    """Return a parser of whole numbers in these limits."""
    instead = f"write a whole number from {low} to {high}, without quotes"
    return lambda raw: int(_number(raw, r"[+-]?[0-9]{1,18}", "a whole number", (low, high), instead))


def seconds(low: float, high: float) -> Parser:
    """Return a parser of seconds in these limits."""
    pattern = r"[+-]?[0-9]{1,12}(\.[0-9]{1,9})?"
    instead = f"write a number of seconds from {low:g} to {high:g}, without quotes or unit"
    return lambda raw: float(_number(raw, pattern, "a number of seconds", (low, high), instead))


def days(raw: Raw) -> float:
    """Parse days, also fractions of one; 0 is at once."""
    return _days(
        raw, "write a number of days from 0 to 36500, without quotes or unit; leave it empty to keep for ever"
    )


FOREVER = float("inf")
"""Days without an end."""


def days_or_forever(raw: Raw) -> float:
    """Parse days, or the word forever."""
    return (
        FOREVER if raw.text == "forever" else _days(raw, "write a number of days from 0 to 36500, or forever")
    )


def _days(raw: Raw, instead: str) -> float:
    return float(_number(raw, r"[0-9]{1,5}(\.[0-9]{1,9})?", "a number of days", (0, 36500), instead))


def _number(raw: Raw, pattern: str, kind: str, limits: tuple[float, float], instead: str) -> str:
    """Return the text of a number in these limits."""
    if re.fullmatch(pattern, raw.text) is None:
        reject(f"{raw.text!r} is not {kind}", instead)
    if not raw.bare:
        reject(f"{raw.text!r} is text in quotes", instead)
    if not limits[0] <= float(raw.text) <= limits[1]:
        reject(f"{raw.text} is out of range", instead)
    return raw.text


PORT = whole(1, _LAST_PORT)
_UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}


def size(low: int, high: int) -> Callable[[Raw], int]:
    """Return a parser of sizes in these limits, in bytes, written with or without a unit."""

    def parse(raw: Raw) -> int:
        found = re.fullmatch(r"([0-9]{1,15}) ?(KiB|MiB|GiB|TiB|)", raw.text)
        instead = f"write a size from {low // 1024**2} MiB to {high // 1024**4} TiB, as 500 MiB or 2 GiB"
        if found is None:
            reject(f"{raw.text!r} is not a size", instead)
        size = int(found[1]) * _UNITS[found[2]]
        if not low <= size <= high:
            reject(f"{raw.text} is out of range", instead)
        return size

    return parse


_SIZE = size(64 * 1024**2, 1024**5)


def share(raw: Raw) -> Share:
    """Parse a percentage of a volume, or bytes with or without a unit."""
    if found := re.fullmatch(r"([0-9]{1,2}(?:\.[0-9]{1,3})?) ?%", raw.text):
        if float(found[1]) == 0:
            reject(f"{raw.text} is out of range", "write more than 0%; leave it empty for no bound")
        return Share(raw.text, percent=float(found[1]))
    try:
        return Share(raw.text, bytes=_SIZE(raw))
    except WrongValueError:
        instead = "write 10% or 500 GiB; leave it empty for no bound"
        reject(f"{raw.text!r} is neither a percentage nor a size", instead)


def choice(*words: str) -> Parser:
    """Return a parser that accepts these words only."""

    def parse(raw: Raw) -> str:
        if raw.text not in words:
            reject(f"{raw.text!r} is not known", f"write {' or '.join(words)}")
        return raw.text

    return parse


def switch(raw: Raw) -> bool:
    """Parse true or false."""
    if raw.text.lower() not in {"true", "false"}:
        reject(f"{raw.text!r} is neither true nor false", "write true or false")
    return raw.text.lower() == "true"


def switch_or_auto(raw: Raw) -> str:
    """Parse true, false, or auto: as far as this machine can."""
    word = raw.text.lower()
    if word not in {"true", "false", "auto"}:
        reject(f"{raw.text!r} is not known", "write auto, true or false")
    return word


def aet(raw: Raw) -> str:
    """Parse an AE title (PS3.5 section 6.2)."""
    try:
        return parse_aet(raw.text)
    except InvalidValueError as error:
        reject(f"{raw.text!r} is not an AE title: {error}", "write 1 to 16 plain characters")


def folder(raw: Raw) -> Path:
    """Parse an absolute path, of a folder or a file."""
    path = Path(raw.text)
    if not path.is_absolute() or "\0" in raw.text:
        reject(f"{raw.text!r} is not an absolute path", "write a path that begins with /")
    if ".." in path.parts or len(path.parts) == 1:
        reject(f"{raw.text!r} is not a folder of its own", "write the full path, without .. in it")
    return path


def host(raw: Raw) -> str:
    """Parse a host name or an IP address."""
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", raw.text) is None and not _is_ipv6(raw.text):
        reject(f"{raw.text!r} is not a host", "write a host name or an IP address, without a port")
    return raw.text


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def network(raw: Raw) -> Network:
    """Parse a network or one address that a route can be set for."""
    instead = "write a network as 10.1.0.0/16 or 2001:db8::/32, or one address"
    try:
        network = ipaddress.ip_network(raw.text.strip(), strict=False)
    except ValueError:
        reject(f"{raw.text!r} is not a network", instead)
    if ipaddress.ip_interface(raw.text.strip()).ip != network.network_address:
        reject(f"{raw.text} has bits beyond its length", f"write {network}")
    if network.is_multicast:
        reject(f"{network} is for multicast: no sender has such an address", instead)
    if isinstance(network, ipaddress.IPv6Network) and network.is_loopback:
        instead = "let senders on this machine use 127.0.0.1"
        reject(f"no route can go before the kernel's own to {network}", instead)
    return network


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return bool(text)


def _title(raw: Raw, title: str, instead: str) -> str:
    try:
        return parse_aet(title)
    except InvalidValueError as error:
        reject(f"{raw.text!r} has no AE title: {error}", instead)


def sender(raw: Raw) -> Sender:
    """Parse an AE title and the network it sends from."""
    title, _, place = raw.text.rpartition(" from ") if " from " in raw.text else (raw.text, "", "")
    examples = '"CT1 from 10.1.2.3", "MR* from 10.2.0.0/16" or "* from 10.3.0.0/16"'
    aet = _title(raw, title, f'write "AET from NETWORK", as {examples}')
    if any(map(_is_network, re.split(r"[\s,;@]+", title)[1:])):
        reject(f"{raw.text!r} has an address in its AE title", f'write "AET from NETWORK", as {examples}')
    if not place:
        return Sender(aet)
    found = network(raw._replace(text=place))
    if isinstance(found, ipaddress.IPv6Network):
        reject(f"{raw.text!r}: Orthanc takes DICOM by IPv4 only", f'write "AET from NETWORK", as {examples}')
    return Sender(aet, found)


def station(raw: Raw) -> Station:
    """Parse an AE title, and the IPv4 address and port where it accepts associations."""
    instead = 'write "AET at ADDRESS:PORT", as "CT1 at 10.1.2.3:104"'
    title, _, place = raw.text.rpartition(" at ")
    found = re.fullmatch(r"([0-9.]+):([0-9]{1,5})", place.strip())
    if found is None:
        reject(f"{raw.text!r} is not an AE title with its address and port", instead)
    try:
        station = Station(parse_aet(title), str(ipaddress.IPv4Address(found[1])), int(found[2]))
    except (InvalidValueError, ValueError) as error:
        reject(f"{raw.text!r}: {error}", instead)
    if not 0 < station.port <= _LAST_PORT:
        reject(f"{raw.text!r}: there is no port {station.port}", instead)
    return station


def receiver(raw: Raw) -> Receiver:
    """Parse the AE title of an extractor's receiver and the machine it runs on."""
    title, _, place = raw.text.partition(" at ")
    instead = 'write "AET at HOST", as "PYTHON_SCP_B at 10.0.0.2"'
    aet = _title(raw, title, instead)
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", place) is None:
        reject(f"{raw.text!r} has no host", instead)
    return Receiver(aet, place)


def url(raw: Raw) -> str:
    """Parse a URL of HTTP or HTTPS."""
    if re.fullmatch(r"https?://[^\s/]+(/\S*)?", raw.text) is None:
        reject("it is not a URL", "write https://HOST/PATH")
    return raw.text


def folder_or_url(raw: Raw) -> str:
    """Parse an absolute path, or a URL of HTTPS."""
    if raw.text.startswith("/"):
        return str(folder(raw))
    if re.fullmatch(r"https://[^\s/]+(/\S*)?", raw.text) is None:
        reject(
            f"{raw.text!r} is neither a folder nor a URL",
            "write a path that begins with /, or https://HOST/PATH",
        )
    return raw.text


_HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_DATABASE_URL = re.compile(rf"postgresql://[^\s:@/?]+@({_HOST}(?:,{_HOST})*)/[^\s/?]+(\?\S*)?")


def database_url(raw: Raw) -> str:
    """Parse a PostgreSQL URL as libpq takes it, with one or more hosts and without a password."""
    if re.match(r"\w+://[^@/]*:[^@/]*@", raw.text) or re.search(r"[?&]password=", raw.text):
        reject("it has a password in it", "put the password into ledger.password_file")
    if _DATABASE_URL.fullmatch(raw.text) is None:
        instead = "write postgresql://USER@HOST:PORT/NAME, several servers as HOST1:PORT,HOST2:PORT"
        reject("it is not the URL of a PostgreSQL database", instead)
    return raw.text


_SERVERS_URL = re.compile(rf"postgresql://({_HOST}(?:,{_HOST})*)/?(\?\S*)?")


def servers_url(raw: Raw) -> str:
    """Parse the servers of a PostgreSQL cluster as libpq takes them, without role, password and database."""
    if "@" in raw.text or re.search(r"[?&](user|password|dbname)=", raw.text):
        names = (
            "the roles at database.gateway_user and storage_user, the password into database.password_file"
        )
        reject("it has a role or a password in it", f"write {names}")
    if _SERVERS_URL.fullmatch(raw.text) is None:
        instead = "write postgresql://HOST1:PORT,HOST2:PORT/?sslmode=verify-full, without a database"
        reject("it is not a URL of PostgreSQL servers", instead)
    return raw.text


def database_hosts(url: str) -> tuple[str, ...]:
    """Return the hosts of such a URL, without their ports."""
    found = _DATABASE_URL.fullmatch(url)
    hosts = found[1].split(",") if found else ()
    return tuple(re.sub(r":[0-9]+$", "", host).strip("[]") for host in hosts)


address = text(r"[^\s@,]+@[^\s@,]+", "a mail address", "one NAME@HOST")
identifier = text(
    r"[A-Za-z_][A-Za-z0-9_-]{0,62}", "a PostgreSQL name", "letters, digits, _ and -, 63 at most"
)


def secret(raw: Raw) -> str:
    """Parse any text in one line."""
    if not raw.text.isprintable():
        reject("the password has unprintable characters", "write it on one line, in quotes")
    return raw.text
