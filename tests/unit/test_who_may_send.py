"""`senders` of ddwd.yaml: what may stand there, whom it lets in, and what becomes of it in the gateway's configuration."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.acceptor.allowed_senders import admits
from ddwd.config.loader import load
from ddwd.config.parsers import Sender, Station
from ddwd.config.schema import CommitmentConfig, Config
from ddwd.core.errors import ConfigError
from ddwd.provisioning import credentials
from ddwd.provisioning.orthanc_config import render

if TYPE_CHECKING:
    from pathlib import Path

CT = Sender("CT1", IPv4Network("10.1.2.3"))
MR = Sender("MR*", IPv4Network("10.2.0.0/16"))
CT_LISTENS = Station("CT1", "10.1.2.9", 11112)
ANY = Sender("*", IPv4Network("10.3.0.0/24"))


def _read(folder: Path, text: str) -> tuple[Sender, ...]:
    path = folder / "ddwd.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, {"DDWD_DEFAULTS": str(folder / "none")}).senders


@pytest.mark.parametrize(
    ("text", "senders"),
    [
        ("senders: []", ()),
        ("senders:", ()),
        ("senders: [CT1 from 10.1.2.3]", (CT,)),
        ("senders: CT1 from 10.1.2.3", (CT,)),
        ("senders: CT1 from 10.1.2.3, MR* from 10.2.0.0/16", (CT, MR)),
        (
            'senders:\n  - CT1 from 10.1.2.3\n  - MR* from 10.2.0.0/16\n  - "* from 10.3.0.0/24"\n',
            (CT, MR, ANY),
        ),
        ("senders: [US ROOM 1]", (Sender("US ROOM 1"),)),
        ("senders: [US from B from 10.1.2.3]", (Sender("US from B", IPv4Network("10.1.2.3")),)),
    ],
)
def test_entries_are_ae_titles_with_a_network(tmp_path: Path, text: str, senders: tuple[Sender, ...]) -> None:
    assert _read(tmp_path, text) == senders
    again = "senders:\n" + "".join(f"  - {json.dumps(str(one))}\n" for one in senders)
    assert _read(tmp_path, again) == senders


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("senders:\n  - * from 10.3.0.0/24", ("ddwd.yaml:2: syntax: not YAML", 'put text that begins with * in quotes')),
        ("senders: [*]", ("ddwd.yaml:1: syntax: not YAML", "in quotes")),
        ("senders: [CT1 from 10.1.2]", ("'10.1.2' is not a network", "write a network as 10.1.0.0/16")),
        ("senders: [CT1 from 10.1.2.3/16]", ("has bits beyond its length; write 10.1.0.0/16",)),
        ("senders: [CT1 from 2001:db8::1]", ("Orthanc takes DICOM by IPv4 only", 'write "AET from NETWORK"')),
        ("senders: [A_TITLE_THAT_IS_TOO_LONG from 10.1.2.3]", ("has no AE title", 'as "CT1 from 10.1.2.3"')),
        ("senders:\n  - {aet: CT1, from: 10.1.2.3}", ("ddwd.yaml:2: senders: has a list or a section",)),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_what_to_write(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, text)
    (line,) = str(caught.value).splitlines()
    assert [part for part in said if part not in line] == []


@pytest.mark.parametrize(
    ("aet", "address", "admitted"),
    [
        ("CT1", "10.1.2.3", True),
        ("ct1 ", "10.1.2.3", True),
        ("CT1", "10.1.2.4", False),
        ("CT12", "10.1.2.3", False),
        ("MR1", "10.2.200.1", True),
        ("MR", "10.2.200.1", True),
        ("XMR", "10.2.200.1", False),
        ("MR1", "10.1.2.3", False),
        ("ANYTHING", "10.3.0.255", True),
        ("ANYTHING", "10.3.1.0", False),
        ("CT1", "127.0.0.1", True),
        ("DDWD_SELFTEST", "127.0.0.1", True),
        ("DDWD_SEND", "127.0.0.1", True),
        ("DDWD_INBOX", "127.0.0.1", True),
        ("DDWD_SEND", "10.9.9.9", False),
    ],
)
def test_the_pair_of_title_and_address_decides(aet: str, address: str, *, admitted: bool) -> None:
    assert admits((CT, MR, ANY), aet, address) is admitted


def test_without_a_list_anyone_may_send() -> None:
    assert admits((), "ANYONE", "203.0.113.9")


def _gateway(*senders: Sender, askers: tuple[Station, ...] = ()) -> dict[str, Any]:
    config = replace(Config(), senders=senders, commitment=CommitmentConfig(askers))
    found: dict[str, Any] = json.loads(render(config, credentials.generate(), "gateway"))
    return found


def _locks(tree: dict[str, Any]) -> tuple[bool, bool, bool]:
    """Whether strangers may C-STORE, whether they may C-ECHO, whether addresses are checked by Orthanc itself."""
    return tree["DicomAlwaysAllowStore"], tree["DicomAlwaysAllowEcho"], tree["DicomCheckModalityHost"]


@pytest.mark.parametrize("senders", [(), (CT,), (CT, MR)])
def test_orthanc_itself_takes_what_the_acceptor_passes_on(senders: tuple[Sender, ...]) -> None:
    tree = _gateway(*senders)
    assert _locks(tree) == (True, True, False)
    assert tree["DicomModalities"] == {}
    assert tree["DicomPort"] == 4252


def _may(tree: dict[str, Any], request: str) -> set[tuple[str, str]]:
    """AE title and address of those that may ask for that."""
    listed = tree["DicomModalities"].values()
    return {(one["AET"], one["Host"]) for one in listed if one[f"Allow{request}"]}


@pytest.mark.parametrize("senders", [(), (MR,), (CT,)])
@pytest.mark.parametrize("askers", [(), (CT_LISTENS,), (Station("MR1", "10.2.0.7", 104),)])
def test_who_is_in_commitment_may_ask_for_it_and_for_nothing_more(
    senders: tuple[Sender, ...], askers: tuple[Station, ...]
) -> None:
    tree = _gateway(*senders, askers=askers)
    assert _may(tree, "StorageCommitment") == {(one.aet, one.address) for one in askers}
    assert _may(tree, "Store") == set()
    assert {one["Port"] for one in tree["DicomModalities"].values()} <= {1}
    assert tree["Ddwd"].get("CommitmentQueue") == ("/var/lib/ddwd/commitment" if askers else None)


def test_a_list_makes_no_image_of_the_web_or_of_the_storage_a_strangers() -> None:
    config = replace(Config(), senders=(CT,))
    storage = json.loads(render(config, credentials.generate(), "storage"))
    assert storage == json.loads(render(Config(), _same_login(storage), "storage"))


def _same_login(tree: dict[str, Any]) -> credentials.Credentials:
    return credentials.Credentials({"storage": tree["RegisteredUsers"], "gateway": tree["RegisteredUsers"]})
