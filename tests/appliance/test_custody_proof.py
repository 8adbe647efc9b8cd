"""The custody of a study, proved: to a stranger by one file and one script, and against user ddwd by a chain that it cannot write."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.core.errors import StateError
from tests.studies import Study, made_up_ct, published

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.appliance.conftest import Portal

MEMBER = "archivist"
CHAIN = "/var/lib/ddwd/chain"
PROOF = f"/home/{MEMBER}/proof.json"
FORGE = """
import hashlib, json, pathlib, sys, zlib
uid, = sys.argv[1:]
for path in pathlib.Path("/var/lib/ddwd/state/custody").glob("??/*.json"):
    record = json.loads(path.read_bytes())
    if record["study_uid"] == uid:
        break
image = record["images"][0]
file = pathlib.Path("/var/lib/ddwd/received_dicom", record["folder"], image["file"])
pixels = bytearray(file.read_bytes())
pixels[-1] ^= 1
file.write_bytes(pixels)
image["sha256"] = hashlib.sha256(pixels).hexdigest()
rest = {key: value for key, value in record.items() if key != "checksum"}
text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
record["checksum"] = f"{zlib.crc32(text.encode('ascii')):08x}"
path.write_bytes(json.dumps(record, indent=1).encode() + b"\\n")
print(path, file)
"""
"""What a program that runs as user ddwd can do to an image and its record, so that both agree (fault 9)."""
ATTACKS = (
    f"echo x >> {CHAIN}/entries.jsonl",
    f"truncate -s 0 {CHAIN}/tree",
    f"rm -f {CHAIN}/head.json",
    f"mv {CHAIN}/published.jsonl {CHAIN}/other",
    f"touch {CHAIN}/new",
    f"mv {CHAIN} {CHAIN}-old",
)


@pytest.fixture(scope="module")
def study(portal: Portal, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that was received, published and entered; and a member of group ddwd."""
    portal.add_operator(MEMBER)
    made = made_up_ct(tmp_path_factory.mktemp("proved") / "ct", 4, seed=81, size=64)
    portal.deliver(made)
    portal.machine.wait_for(
        lambda: _verify(portal, made.uid)[0] == 0, limit=90, every=1, what="the study is not as recorded and entered"
    )  # fmt: skip
    return made


def _verify(portal: Portal, *words: str, user: str = MEMBER) -> tuple[int, dict[str, Any]]:
    done = portal.machine.run(["ddwd", "verify", *words, "--json"], user=user, check=False)
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return done.returncode, found


def _by_a_stranger(folder: Path, *options: str) -> tuple[int, str]:
    """Check the proof on this host, where no ddwd is installed, with an empty environment: Python and openssl are all there is."""
    script, proof = folder / "check-proof.py", folder / "proof.json"
    command = [sys.executable, "-I", "-S", str(script), str(proof), str(folder / "study"), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", env={"PATH": "/usr/bin:/bin"}
    )
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.fixture
def carried_out(portal: Portal, study: Study, tmp_path: Path) -> Path:
    """A folder on this host with the proof, the script, the public key and a copy of the images."""
    portal.machine.run(["rm", "-f", PROOF])
    portal.machine.run(["ddwd", "prove", study.uid, "-o", PROOF], user=MEMBER)
    for inside, name in (
        (PROOF, "proof.json"),
        (f"{CHAIN}/public.pem", "public.pem"),
        ("/usr/share/ddwd/check-proof.py", "check-proof.py"),
    ):
        shutil.copy(portal.machine.path(inside), tmp_path / name)
    (image, *_), *_ = published(study.uid, portal.output).values()
    shutil.copytree(image.parents[1], tmp_path / "study")
    return tmp_path


def test_a_stranger_finds_the_images_as_received_with_python_and_openssl_alone(carried_out: Path) -> None:
    status, said = _by_a_stranger(carried_out, "--key", str(carried_out / "public.pem"))
    assert status == 0, said
    assert "All 4 images are as received" in said
    assert "  published  " in said


def test_a_stranger_is_told_which_image_has_one_other_pixel_byte(carried_out: Path) -> None:
    image = sorted((carried_out / "study").rglob("*.dcm"))[2]
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)
    status, said = _by_a_stranger(carried_out)
    assert (status, said) == (1, f"{image.relative_to(carried_out / 'study')}: changed\n")


@pytest.fixture
def forged(portal: Portal, study: Study) -> Iterator[Path]:
    """The record of a study whose first image was changed by user ddwd, with digest and checksum; put back afterwards."""
    portal.machine.run(["cp", "-a", "/var/lib/ddwd/state/custody", "/root/custody"])
    portal.machine.run(["cp", "-a", "/var/lib/ddwd/received_dicom", "/root/received"])
    said = portal.machine.run(["python3", "-c", FORGE, study.uid], user="ddwd").stdout
    yield portal.machine.path(said.split()[0])
    portal.machine.run(["cp", "-a", "/root/custody/.", "/var/lib/ddwd/state/custody/"])
    portal.machine.run(["cp", "-a", "/root/received/.", "/var/lib/ddwd/received_dicom/"])
    portal.machine.run(["rm", "-r", "/root/custody", "/root/received"])
    assert _verify(portal, study.uid)[0] == 0


def test_pixels_sha256_and_checksum_changed_together_by_user_ddwd_are_named(
    portal: Portal, study: Study, forged: Path
) -> None:
    status, found = _verify(portal, study.uid)
    assert status == 1
    assert (found["changed"], found["damaged"]) == ([], [])  # the record itself is deceived
    (row,) = found["chain"]["records"]
    assert (row["kind"], row["study_uid"], row["study"]) == ("rewritten", study.uid, forged.stem)
    refused = portal.machine.run(
        ["ddwd", "prove", study.uid, "-o", f"/home/{MEMBER}/forged.json"], user=MEMBER, check=False
    )
    assert (refused.returncode, "ddwd verify" in refused.stderr) == (StateError.exit_status, True)


def test_a_record_that_user_ddwd_deletes_is_named(portal: Portal, study: Study, forged: Path) -> None:
    inside = f"/var/lib/ddwd/state/custody/{forged.parent.name}/{forged.name}"
    portal.machine.run(["rm", inside], user="ddwd")
    for name in ("--all", study.uid):
        status, found = _verify(portal, name)
        assert status == 1
        assert ("deleted", study.uid) in {
            (row["kind"], row["study_uid"]) for row in found["chain"]["records"]
        }


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("user", [MEMBER, "ddwd", "ddwd-gateway", "nobody"])
def test_nobody_but_the_signer_can_write_the_chain_or_read_its_key(portal: Portal, user: str) -> None:
    find = ["find", "/var/lib/ddwd", "-ignore_readdir_race", "-name", "key.pem", "-user", "ddwd-signer"]
    (key,) = portal.machine.run(find).stdout.split()
    for attack in (*ATTACKS, f"cat {key}"):
        assert portal.machine.run(["sh", "-c", attack], user=user, check=False).returncode != 0, attack
    assert _verify(portal, "--all")[1]["chain"]["problems"] == []
