"""DCMTK, pynetdicom and dcmjs-dimse as C-STORE SCUs: `send` offers each file in its own transfer syntax and reports what became of it.

Each stack runs in a process of its own, so a prefix can move it into a network namespace.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom

from tests.machine.host import REPO, cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

SUCCESS = "0x0000"
REJECTED, UNREACHABLE, NO_CONTEXT, ABORTED, NOT_SENT = (
    "rejected",  # the peer rejected the association
    "unreachable",  # no connection, or the TLS handshake failed
    "no context",  # the peer did not accept the file's SOP class with its transfer syntax
    "aborted",  # the association ended before the response to this file
    "not sent",  # the stack cannot read this file, or does not send it
)
_SECONDS = 1800.0
_HERE = Path(__file__).parent
_LOCK = _HERE / "package-lock.json"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of the sender."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class Job:
    """One association: the contexts (SOP class, transfer syntax) to propose and the files to send."""

    host: str
    port: int
    called: str
    calling: str
    tls: Tls | None
    contexts: list[tuple[str, str]]
    files: list[Path]


def send(  # noqa: PLR0913, PLR0917 - what an association needs
    stack: str, files: Iterable[Path], host: str, port: int, called: str, calling: str,
    tls: Tls | None = None, prefix: Sequence[str] = (),
) -> dict[Path, str]:  # fmt: skip
    """Send the files and return the outcome of each: the status as 0xHHHH, or one of the words above.

    `stack` is a key of STACKS. All files go over one association where the contexts suffice; after an abort the files
    that are left go over a new one. `prefix` is put before the command (`ip netns exec ...`).
    """
    run, most = STACKS[stack]
    outcomes: dict[Path, str] = {}
    by_context: dict[tuple[str, str], list[Path]] = {}
    for path in dict.fromkeys(files):
        context = context_of(path)
        if context is None:
            outcomes[path] = NOT_SENT
        else:
            by_context.setdefault(context, []).append(path)
    contexts = sorted(by_context)
    for start in range(0, len(contexts), most):
        proposed = contexts[start : start + most]
        left = [path for context in proposed for path in by_context[context]]
        while left:
            outcomes |= dict(run(Job(host, port, called, calling, tls, proposed, left), prefix))
            left = [path for path in left if path not in outcomes]
    return outcomes


def context_of(path: Path) -> tuple[str, str] | None:
    """The SOP class of the data set and the transfer syntax of the file; None where one is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = pydicom.dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
            meta = head.file_meta
            sop_class = str(head.get("SOPClassUID") or meta.MediaStorageSOPClassUID)
            return (sop_class, str(meta.TransferSyntaxUID)) if sop_class else None
    except Exception:  # noqa: BLE001 - a damaged file may make the parser raise anything
        return None


# --- DCMTK ------------------------------------------------------------------------------------------------------------


def _dcmtk(job: Job, prefix: Sequence[str]) -> Iterator[tuple[Path, str]]:
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as profile:
        profile.write(_profile(job.contexts))
        profile.flush()
        secure = (
            ["+tls", str(job.tls.key), str(job.tls.certificate), "+cf", str(job.tls.authority)]
            if job.tls
            else []
        )
        command = ["storescu", "-d", "-nh", "-xf", profile.name, "DDWD", *secure, "-aet", job.calling]
        command += ["-aec", job.called, job.host, str(job.port), *map(str, job.files)]
        text = _run([*prefix, *command])
    yield from parse_storescu(text, job.files)


def _profile(contexts: Sequence[tuple[str, str]]) -> str:
    """A configuration file of DCMTK with one presentation context for each pair: profile DDWD."""
    syntaxes = sorted({syntax for _, syntax in contexts})
    lines = ["[[TransferSyntaxes]]"]
    for number, syntax in enumerate(syntaxes, 1):
        lines += [f"[TS{number}]", f"TransferSyntax1 = {syntax}"]
    lines += ["[[PresentationContexts]]", "[CONTEXTS]"]
    for number, (sop_class, syntax) in enumerate(contexts, 1):
        lines.append(f"PresentationContext{number} = {sop_class}\\TS{syntaxes.index(syntax) + 1}")
    return "\n".join([*lines, "[[Profiles]]", "[DDWD]", "PresentationContexts = CONTEXTS", ""])


def parse_storescu(text: str, files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """The outcome of each file in the output of `storescu -d`; files after an abort are left out.

    Raises RuntimeError where storescu did not get as far as an association.
    """
    if "F: Association Rejected" in text:
        yield from ((path, REJECTED) for path in files)
        return
    if "F: Association Request Failed" in text:
        yield from ((path, UNREACHABLE) for path in files)
        return
    if "Association Accepted" not in text:
        raise RuntimeError(text)
    for part in re.split(r"^I: Sending file: ", text, flags=re.MULTILINE)[1:]:
        path = Path(part.splitlines()[0])
        status = re.search(r"DIMSE Status +: 0x([0-9a-f]{4})", part)
        if status:
            yield path, f"0x{status[1].upper()}"
        elif "E: No presentation context" in part:
            yield path, NO_CONTEXT
        elif "I: Sending Store Request" in part and "DIMSE Unsupported transfer syntax" not in part:
            yield path, ABORTED
            return
        else:
            yield path, NOT_SENT


# --- the stacks that report JSON lines --------------------------------------------------------------------------------


def _pynetdicom(job: Job, prefix: Sequence[str]) -> Iterator[tuple[Path, str]]:
    return _reported([*prefix, sys.executable, "-m", "tests.senders.pynetdicom_scu"], job)


def _dcmjs(job: Job, prefix: Sequence[str]) -> Iterator[tuple[Path, str]]:
    return _reported([*prefix, "node", str(_HERE / "send.mjs"), str(node_folder())], job)


def node_folder() -> Path:
    """The folder into which `make node` installs what package-lock.json lists. Raises FileNotFoundError."""
    cache = Path(os.environ.get("DDWD_CACHE") or cache_folder())
    folder = cache / f"node-{hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:12]}"
    if not (folder / "ready").exists():
        raise FileNotFoundError(f"{folder}: dcmjs-dimse is not installed; run make node")
    return folder


_IS_STUCK = "\nTimeout ("  # the first words of faulthandler


def _reported(command: Sequence[str], job: Job) -> Iterator[tuple[Path, str]]:
    """Give a program the job as JSON on stdin; each line of its output that is a JSON list is a file and its outcome.

    Raises RuntimeError where it reports no file, or says where it is stuck.
    """
    text = _run(command, json.dumps(asdict(job), default=str))
    lines = [json.loads(line) for line in text.splitlines() if line.startswith('["')]
    if not lines or _IS_STUCK in text:
        raise RuntimeError(text)
    for path, outcome in lines:
        yield Path(path), outcome


def _run(command: Sequence[str], given: str = "") -> str:
    done = subprocess.run(
        command, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        check=False, timeout=_SECONDS, cwd=REPO, env=os.environ | {"PYTHONWARNINGS": "ignore", "TMPDIR": tempfile.gettempdir()},
    )  # fmt: skip
    return done.stdout


STACKS: dict[str, tuple[Callable[[Job, Sequence[str]], Iterator[tuple[Path, str]]], int]] = {
    "dcmtk": (_dcmtk, 128),
    "pynetdicom": (_pynetdicom, 128),
    "dcmjs-dimse": (_dcmjs, 64),
}
"""Name -> how to send over one association, and how many contexts fit: dcmjs-dimse itself adds one for each SOP class."""
