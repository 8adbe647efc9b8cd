"""The attacks, each a function over a target that returns how often it was answered how. Bounded in bytes, connections and seconds.

None of them may do more than waste the target's time: the tests look at its memory, its process and its folders afterwards.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from tests.hostile.wire import (
    COMMAND,
    CT,
    DATA,
    DEFLATED,
    LAST,
    STORE,
    UNDEFINED,
    Image,
    Sender,
    Target,
    association,
    command,
    context,
    pdu,
    pdv,
    request,
    store,
    store_image,
    tagged,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Outcome = Counter[str]

ROOT = "2.25.4242"
GIGABYTE = 1 << 30
_BLOCK = bytes(1 << 20)
_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED)
_ITEM_END, _SEQUENCE_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0), struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
_SEQUENCE = tagged(8, 0x1115, "SQ", b"", UNDEFINED)
DEPTHS = (100, 1_000, 10_000, 100_000)
IDLE = 1000
_OPEN_SECONDS = 1.0
"""For all of them to be open; those whose SYN was dropped by a full backlog the kernel goes on to open beside the image."""
HELD = 200
_SILENT = 8
"""Silences after which no more of an attack is sent: each takes its time, and shows nothing new."""


def image(attack: int, number: int = 1, **more: str | bytes) -> Image:
    """An image of this attack's own study."""
    study = f"{ROOT}.{attack}"
    return Image(study, f"{study}.1.{number}", **more)  # type: ignore[arg-type]


def forged_pdu_length(target: Target) -> Outcome:
    """PDUs of 4 GB are announced, before and after the association, and bytes sent for as long as they are taken, 1 GB at most."""
    found: Outcome = Counter()
    for kind, associated, most in (
        (1, False, GIGABYTE),
        (4, True, GIGABYTE),
        (4, False, 1 << 28),
        (9, True, 1 << 28),
    ):
        with Sender(target) as sender:
            if associated:
                sender.associate()
            taken = _pour(sender, struct.pack(">BxL", kind, 0xFFFFFFF0), most)
            found[
                f"cut off after {'< 16' if taken < 16 << 20 else taken >> 20} MB"
                if taken < most
                else "all taken"
            ] += 1
    return found


def _pour(sender: Sender, first: bytes, most: int) -> int:
    """Send until the peer takes no more; the bytes that went."""
    sent = 0
    sender.connection.settimeout(sender.target.within(10))
    with suppress(OSError):
        sender.connection.sendall(first)
        while sent < most:
            sender.connection.sendall(_BLOCK)
            sent += len(_BLOCK)
    return sent


def forged_item_length(target: Target) -> Outcome:
    """Items of an A-ASSOCIATE-RQ and presentation data values that overrun their PDU."""
    found: Outcome = Counter()
    sound = association(target.called)
    for position in (74, 99, 130):
        broken = bytearray(sound)
        broken[position + 2 : position + 4] = b"\xff\xff"
        with Sender(target) as sender:
            found[_end(sender, bytes(broken))] += 1
    for value in (
        struct.pack(">LBB", 0xFFFFFFF0, STORE, COMMAND),
        struct.pack(">LB", 1, STORE),
        struct.pack(">LBB", 0, STORE, 0),
    ):
        with Sender(target) as sender:
            sender.associate()
            found[sender.tell(pdu(value))] += 1
    return found


def _end(sender: Sender, content: bytes) -> str:
    """How an association request ends."""
    with suppress(ConnectionError):
        sender.send(content)
    try:
        return {2: "accepted", 3: "rejected", 7: "abort", 0: "closed"}.get(sender.receive()[0], "other")
    except TimeoutError:
        return "silence"


def idle_connections(target: Target) -> Outcome:
    """A thousand connections that say nothing stand open while an image is sent."""
    with ExitStack() as held:
        opening = select.poll()
        for _ in range(IDLE):
            one = held.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((target.host, target.port))
            opening.register(one, select.POLLOUT)
        waiting, until = IDLE, time.monotonic() + _OPEN_SECONDS
        while waiting and (rest := until - time.monotonic()) > 0:
            for descriptor, _ in opening.poll(rest * 1000):
                opening.unregister(descriptor)
                waiting -= 1
        return Counter({store_image(target, image(3)): 1})


def slow_loris(target: Target) -> Outcome:
    """Sixty connections send an association, or an image, byte by byte, while an image is sent."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=_trickle, args=(target, number, stop), daemon=True) for number in range(60)
    ]
    for one in threads:
        one.start()
    stop.wait(2)
    found = Counter({store_image(target, image(4, number)): 1 for number in range(1)})
    stop.set()
    for one in threads:
        one.join(10)
    return found


def _trickle(target: Target, number: int, stop: threading.Event) -> None:
    one = image(4, number + 100)
    with suppress(OSError), Sender(target) as sender:
        content = association(target.called)
        if number % 2:
            sender.associate()
            content = store(one.sop_uid, one.encoded())
        for byte in content:
            if stop.wait(0.2):
                return
            sender.send(bytes((byte,)))


def association_flood(target: Target) -> Outcome:
    """Five hundred associations come and are aborted at once, then as many as are taken are held, 200 at most, while an image is sent."""
    found: Outcome = Counter()
    for _ in range(500):
        with suppress(OSError), Sender(target) as sender:
            sender.associate()
            sender.send(pdu(bytes(4), kind=7))
    with ExitStack() as held:
        for _ in range(HELD):
            sender = held.enter_context(Sender(target, 5))
            try:
                sender.associate()
                found["held"] += 1
            except OSError:
                found["refused"] += 1
        found[f"image meanwhile: {store_image(target, image(5))}"] += 1
    return found


def abort_at_every_byte(target: Target) -> Outcome:
    """A C-STORE is cut off after each of its bytes, by an A-ABORT or by the connection's end, in turn."""
    one = image(6, after=tagged(0x7FE0, 0x10, "OB", bytes(range(64))))
    content = store(one.sop_uid, one.encoded())
    for length in range(len(content)):
        with suppress(OSError), Sender(target) as sender:
            sender.associate()
            sender.send(content[:length])
            if length % 2:
                sender.send(pdu(bytes(4), kind=7))
    return Counter({"cut": len(content)})


def uids_disagree(target: Target) -> Outcome:
    """Command set and data set name different instances, or different classes."""
    found: Outcome = Counter()
    for one, sop_uid, sop_class in (
        (image(7, 1), f"{ROOT}.7.1.9", CT),
        (image(7, 2, sop_class="1.2.840.10008.5.1.4.1.1.4"), f"{ROOT}.7.1.2", CT),
    ):
        with Sender(target) as sender:
            sender.associate()
            found[sender.tell(store(sop_uid, one.encoded(), sop_class))] += 1
    return found


ILLEGAL = (
    "../../../../etc/cron.d/x", "/etc/passwd", "1.2.3/../../x", "..", ".", "1.2.*", "1.2.?", "1.2\\1.3", "abc", "-1.2",
    "1..2", "1.2.\0.3", "1.2 .3", "1." * 31 + "1.1", "1" * 64, "CON", "\xff\xfe", "%2e%2e", "$(touch x)", "'; DROP TABLE x; --",
)  # fmt: skip
"""What a StudyInstanceUID and a SOPInstanceUID are said to be."""


def illegal_uids(target: Target) -> Outcome:
    """UIDs that are none, in the data set as in the command set; too long ones and absent ones too."""
    found: Outcome = Counter()
    for text in (*ILLEGAL, "1." * 40 + "1", "9" * 300, ""):
        for one in (Image(text, f"{ROOT}.8.1.1"), Image(f"{ROOT}.8", text), Image(text, text)):
            if found["silence"] >= _SILENT:
                break
            with suppress(OSError), Sender(target) as sender:
                sender.associate()
                found[sender.tell(store(one.sop_uid, one.encoded()))] += 1
    return found


def huge_sequence(target: Target) -> Outcome:
    """Two million empty items, of undefined and of defined length, before the identifiers."""
    found: Outcome = Counter()
    for number, inner in enumerate((struct.pack("<HHL", 0xFFFE, 0xE000, 0), _ITEM + _ITEM_END), 1):
        with suppress(OSError), Sender(target) as sender:
            one = image(9, number, between=_SEQUENCE + inner * 2_000_000 + _SEQUENCE_END)
            sender.associate()
            found[sender.tell(store(one.sop_uid, one.encoded()))] += 1
    return found


def nested_sequences(target: Target) -> Outcome:
    """Sequences in sequences, up to 100,000 deep, each level of undefined length."""
    found: Outcome = Counter()
    for number, depth in enumerate(DEPTHS, 1):
        with suppress(OSError), Sender(target) as sender:
            nested = (_SEQUENCE + _ITEM) * depth + (_ITEM_END + _SEQUENCE_END) * depth
            one = image(10, number, between=nested)
            sender.associate()
            found[f"{depth}: {sender.tell(store(one.sop_uid, one.encoded()))}"] += 1
    return found


def undefined_lengths(target: Target) -> Outcome:
    """Undefined lengths where none may be, and such that never end."""
    found: Outcome = Counter()
    endless = (
        {"between": _SEQUENCE},
        {"between": _SEQUENCE + _ITEM},
        {"between": _SEQUENCE_END},
        {"between": tagged(8, 0x60, "UN", b"", UNDEFINED)},
        {"between": tagged(9, 0x1000, "UN", _ITEM + bytes(1000), UNDEFINED)},
        {"between": tagged(8, 0x2112, "OB", b"", UNDEFINED)},
        {"after": tagged(0x7FE0, 0x10, "OB", b"", UNDEFINED) + _ITEM},
        {
            "after": tagged(0x7FE0, 0x10, "OB", b"", UNDEFINED)
            + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFF0)
        },
        {"after": tagged(0x7FE0, 0x10, "OW", b"", 0xFFFFFFF0)},
        {"after": tagged(0x40, 0x275, "UT", b"x" * 8, 0x7FFFFFF0)},
    )
    for number, parts in enumerate(endless, 1):
        if found["silence"] >= _SILENT:
            break
        with suppress(OSError), Sender(target) as sender:
            one = image(11, number, **parts)
            sender.associate()
            found[sender.tell(store(one.sop_uid, one.encoded()))] += 1
    return found


def every_transfer_syntax(target: Target) -> Outcome:
    """Each transfer syntax there is, and unknown ones, with bytes behind it that are none of it."""
    from pydicom import uid  # noqa: PLC0415 - not needed by the others

    found: Outcome = Counter()
    for number, syntax in enumerate(
        [*map(str, uid.AllTransferSyntaxes), "1.2.840.113619.5.2", "1.2.3.998"], 1
    ):
        if found["silence"] >= _SILENT:
            break
        with suppress(OSError), Sender(target) as sender:
            one = image(12, number, after=tagged(0x7FE0, 0x10, "OB", b"\xff\xd8" + bytes(100)))
            if STORE not in sender.associate(context(STORE, CT, [syntax])):
                found["context refused"] += 1
                continue
            found[sender.tell(store(one.sop_uid, one.encoded()))] += 1
    return found


def private_classes(target: Target) -> Outcome:
    """SOP classes that no standard knows."""
    found: Outcome = Counter()
    for number, sop_class in enumerate(("1.2.840.113619.4.30", "1.3.46.670589.11.0.0.12.1", "1.2.3.999"), 1):
        with suppress(OSError), Sender(target) as sender:
            one = image(13, number, sop_class=sop_class)
            if STORE not in sender.associate(context(STORE, sop_class)):
                found["context refused"] += 1
                continue
            found[sender.tell(store(one.sop_uid, one.encoded(), sop_class))] += 1
    return found


def deflate_bomb(target: Target) -> Outcome:
    """Two megabytes that are two gigabytes once inflated: in one value, and as many elements."""
    found: Outcome = Counter()
    size = 2 * GIGABYTE - 2
    single = image(14, 1).encoded() + tagged(0x7FE0, 0x10, "OB", b"", size)
    many = tagged(9, 0x10, "LO", b"BOMB") + tagged(9, 0x1001, "SQ", b"", UNDEFINED)
    for number, (start, block) in enumerate(
        ((single, _BLOCK), (image(14, 2).encoded()[:60] + many, _ITEM_END[:4] + bytes(4))), 1
    ):
        bomb = b"".join(_deflated(start, block * ((1 << 20) // len(block)), 2048))
        with suppress(OSError), Sender(target) as sender:
            if STORE not in sender.associate(context(STORE, CT, [DEFLATED])):
                found["context refused"] += 1
                continue
            found[sender.tell(store(f"{ROOT}.14.1.{number}", bomb))] += 1
    return found


def _deflated(start: bytes, block: bytes, times: int) -> Iterator[bytes]:
    """A deflate stream of `start` and so many blocks; each block is flushed in full (RFC 1951), so that one stands for all."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    yield deflater.compress(start) + deflater.flush(zlib.Z_FULL_FLUSH)
    yield (deflater.compress(block) + deflater.flush(zlib.Z_FULL_FLUSH)) * times
    yield deflater.flush()


def truncated_data_sets(target: Target) -> Outcome:
    """A data set that ends after each of its bytes, in a message that is whole."""
    found: Outcome = Counter()
    encoded = image(15).encoded()
    with ExitStack() as stack:
        sender: Sender | None = None
        for length in range(len(encoded)):
            if found["silence"] >= _SILENT:
                break
            if sender is None:
                sender = stack.enter_context(Sender(target))
                sender.associate()
            answer = sender.tell(store(f"{ROOT}.15.1.1", encoded[:length]))
            found[answer] += 1
            sender = sender if answer.startswith("0x") else None
    return found


def random_data_sets(target: Target) -> Outcome:
    """Random bytes, and a sound data set with random bytes in it, for data sets."""
    found: Outcome = Counter()
    chance = random.Random(6)  # noqa: S311 - not for secrets
    for number in range(200):
        encoded = bytearray(image(16, number).encoded())
        for _ in range(chance.randint(1, 8)):
            encoded[chance.randrange(len(encoded))] = chance.randrange(256)
        content = bytes(encoded) if number % 2 else chance.randbytes(chance.randint(0, 4000))
        if found["silence"] >= _SILENT:
            break
        with suppress(OSError), Sender(target) as sender:
            sender.associate()
            found[sender.tell(store(f"{ROOT}.16.1.{number}", content))] += 1
    return found


def executables(target: Target) -> Outcome:
    """Programs and whole files with a preamble in the place of a data set."""
    found: Outcome = Counter()
    one = image(17)
    preambles = (b"MZ" + bytes(126), b"\x7fELF" + bytes(124), b"#!/bin/sh\ntouch /tmp/x\n".ljust(128, b"#"))
    for start in preambles:
        for content in (start + b"DICM" + one.encoded(), start + one.encoded()):
            if found["silence"] >= _SILENT:
                break
            with suppress(OSError), Sender(target) as sender:
                sender.associate()
                found[sender.tell(store(one.sop_uid, content))] += 1
    return found


def endless_message(target: Target) -> Outcome:
    """A command set that never ends, and a data set that never ends (64 MB), each in sound PDUs."""
    found: Outcome = Counter()
    for start, control in (
        (b"", COMMAND),
        (pdu(pdv(STORE, COMMAND | LAST, command(*request(f"{ROOT}.18.1.1")))), DATA),
    ):
        with suppress(OSError), Sender(target) as sender:
            sender.associate()
            sender.send(start)
            block = pdu(pdv(STORE, control, bytes(15000)))
            with suppress(OSError):
                for _ in range(4400):
                    sender.send(block)
            sender.connection.settimeout(2)
            found[sender.answer()] += 1
    return found


ATTACKS: dict[str, Callable[[Target], Outcome]] = {
    one.__name__.replace("_", "-"): one
    for one in (
        forged_pdu_length,
        forged_item_length,
        idle_connections,
        slow_loris,
        association_flood,
        abort_at_every_byte,
        endless_message,
        uids_disagree,
        illegal_uids,
        huge_sequence,
        nested_sequences,
        undefined_lengths,
        every_transfer_syntax,
        private_classes,
        deflate_bomb,
        truncated_data_sets,
        random_data_sets,
        executables,
    )
}
