"""`ddwd backup DIR`: copy both databases, settings, state and images into a folder, while the portal runs.

`ddwd restore DIR`: restore a backup onto this machine, start the portal, and have missing files retrieved again.
"""

import os
import socket
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ddwd import __version__
from ddwd.backup import archive, restore, seal
from ddwd.backup.backup import Made, Order, back_up
from ddwd.cli import progress
from ddwd.cli.command import Argument, Command, VerbResult, file_errors, flag, prints
from ddwd.cli.doctor import context_of, until_up
from ddwd.cli.progress import Bar
from ddwd.cli.retry import refetch, unfinished
from ddwd.config.loader import load, settings_files
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.answers import Key, sometimes
from ddwd.core.audit import RESTORE as RESTORED
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import SystemClock, sleep
from ddwd.core.errors import DdwdError, InvalidValueError, PeerRefusedError, StateError
from ddwd.core.problem import Problem, Severity
from ddwd.extractor.refetch import RefetchOutcome
from ddwd.provisioning.host import SystemHost
from ddwd.status.doctor import examine
from ddwd.status.formatting import plain
from ddwd.store import custody, ledger
from ddwd.store.operator_requests import Request, Requests

_SCHEMAS = {"ledger": ledger.SCHEMA, "custody": custody.SCHEMA}
"""Of the state files, as this version writes them."""
_LIMIT_SECONDS = 120.0


def _backup(args: Namespace, config: Config) -> VerbResult:
    _assert_root()
    if config.database.engine != "postgresql":
        raise InvalidValueError(
            "this portal runs without PostgreSQL (ddwd try): copy its folder while it is stopped"
        )
    order = Order(
        folder=args.folder.absolute(),
        settings=settings_files(),
        images=not args.without_images,
        output=args.with_output,
        portal=__version__,
        host=socket.gethostname(),
        schemas=_SCHEMAS,
    )
    with file_errors(args.folder), progress.bar("", as_json=args.json, in_bytes=True) as bar:
        made = back_up(config, order, SystemHost(), bar, SystemClock())
    Audit().record(Event.REQUESTED, "the operator requested a backup; it is complete")
    return _backed_up(made, order, config)


def _assert_root() -> None:
    """Raise StateError for any user but root; files created from here on are readable for root alone."""
    if os.geteuid() != 0:
        raise StateError("only root may read keys, passwords and databases: run it with sudo")
    os.umask(0o077)


def _backed_up(made: Made, order: Order, config: Config) -> VerbResult:
    manifest = made.manifest
    data = {
        "folder": str(order.folder),
        "set": manifest.set,
        "began": manifest.began,
        "ended": manifest.ended,
        "bytes": manifest.bytes,
        "copied": made.copied,
        "same_volume": made.same_volume,
        "databases": {node: dump.bytes for node, dump in manifest.databases.items()},
        "left_out": list(made.left_out),
        "files": {name: one.files for name, one in manifest.trees.items()},
    }
    data |= {"changed": list(made.changed), "damaged": list(made.damaged), "key": made.key}
    size, copied = archive.as_written(manifest.bytes), archive.as_written(made.copied)
    lines = [
        *_contents(manifest, config),
        f"the backup in {order.folder} is complete: {size}, {copied} of it new, as of {manifest.began}",
    ]
    lines.append(f"signed with the key {made.key}: keep this line elsewhere, it proves the backup")
    lines += [
        f"CHANGED since the backup before, whose copy is kept: {plain(name)}; compare it with its sender's"
        for name in made.changed
    ]
    lines += [
        f"CHANGED in the backup before, and copied again: {plain(name)}; who can write there?"
        for name in made.damaged
    ]
    lines[:0] = _left_out(made.left_out)
    if made.same_volume:
        lines.append("it is on the volume of the images and is lost with that disk: copy it to another one")
    if not manifest.has_images:
        lines.append("without the files of the Orthancs: make the snapshot of /var/lib/ddwd now, not before")
    if config.ledger.is_shared:
        lines.append(
            "without ledger and custody records, which are in ledger.shared: back up that database separately"
        )
    return VerbResult(data, lines, 1 if made.changed or made.damaged else 0)


def _left_out(entries: Iterable[str]) -> list[str]:
    """Return a line for each entry of a database that Orthanc has not made."""
    return [f"not made by Orthanc, a restore leaves it out: {plain(one)}" for one in entries]


def _contents(manifest: archive.Manifest, config: Config) -> Iterator[str]:
    """Yield a line for each part of a backup."""
    trees = archive.trees(Paths(config))
    aets: dict[str, str] = {node: config.node(node).aet for node in archive.NODES}
    for name, dump in manifest.databases.items():
        yield f"  database of {aets[name]}: {archive.as_written(dump.bytes)}"
    for name, one in manifest.trees.items():
        if one.files:
            yield f"  {trees[name].words}: {one.files}, {archive.as_written(one.bytes)}"
    yield f"  files of the settings: {len(manifest.configuration)}"


BACKUP = Command(
    "backup",
    "copy all that a new machine needs into a folder",
    prints(_backup),
    (
        Argument("folder", type=Path, metavar="DIR", help="a folder of its own, on another volume"),
        flag("--with-output", "copy the published files too"),
        flag("--without-images", "do not copy the files of the Orthancs: you make snapshots of them"),
    ),
    about="""It copies, while the portal runs: the ledger and custody records, both databases, the files of
both Orthancs, conflicts and quarantine, settings, certificates and passwords. Only root can read
DIR. The published files are not copied, since a restore has them retrieved again from ORTHANC2;
add --with-output where studies are deleted there. Another backup into the same DIR copies only
what is new, and the previous one stays until the new one is complete. Each file has a SHA-256 in a
list that is signed by a key of this machine; keep the ID of the key, which is printed, elsewhere.
A thirtieth of the earlier copies is read again each time; an image that was changed is named.
With --without-images make a snapshot of the storage areas after this has ended, not before.""",
    exits={
        0: "DIR holds a complete backup, made now",
        1: "so it does, but an image or an earlier copy had been changed: each is named",
        64: "wrong usage; DIR cannot hold a backup",
        65: "only root may; another backup is being written there; its manifest is damaged",
        66: "the parent folder of DIR does not exist",
        69: "PostgreSQL does not answer",
        74: "no room in DIR",
        76: "PostgreSQL refused",
    },
    answer=(
        Key("folder", str, "where the backup is"),
        Key("set", str, "the name of the backup"),
        Key("began", str, "when it began"),
        Key("ended", str, "when it ended"),
        Key("bytes", int, "bytes of the whole backup"),
        Key("copied", int, "bytes that were copied now"),
        Key("same_volume", bool, "whether it is on the volume of the images"),
        Key("databases", dict[str, int], "bytes of the copy of each Orthanc's database"),
        Key("left_out", list[str], "what a restore leaves out of a database, since Orthanc did not make it"),
        Key("files", dict[str, int], "number of files of each part"),
        Key("changed", list[str], "images that were changed since the backup before"),
        Key("damaged", list[str], "files of the backup before that were changed, and are copied again"),
        Key("key", str, "ID of the key that signs the backup"),
    ),
)


# --- restore ----------------------------------------------------------------------------------------------------------


def _restore(args: Namespace, _config: Config | None) -> VerbResult:
    _assert_root()
    with file_errors(args.folder), progress.bar("", as_json=args.json, in_bytes=True) as bar:
        backup = restore.open_backup(args.folder.absolute(), __version__, _SCHEMAS, _trust(args))
        if args.dry_run and (found := restore.problems(backup, bar)):
            lines = [f"DAMAGED: {plain(line)}" for line in found]
            return VerbResult({"damaged": found}, [*lines, "it cannot be restored"], StateError.exit_status)
        restore.assert_whole(backup, bar)
        restore.assert_possible(backup)
        lost = [
            f"{part}: {total.files}, {archive.as_written(total.bytes)}"
            for part, total in restore.would_be_lost(backup)
        ]
        left_out = restore.left_out(backup, SystemHost())
        if args.dry_run:
            return _checked(backup, lost, left_out)
        if lost and not args.replace:
            raise DdwdError(
                f"this machine holds {'; '.join(lost)}. No file was changed; --replace removes them"
            )
        _put(backup, bar)
    if args.unsigned:
        sys.stderr.write("ddwd: restored without regard to the signature of the backup\n")
    # `ddwd verify` reads the place: after a restore, earlier custody records are right
    Audit().record(Event.REQUESTED, "the operator requested a restore; it is complete", place=RESTORED)
    sys.stderr.writelines(f"ddwd: {line}\n" for line in _left_out(left_out))
    return _start(backup, as_json=args.json)


def _trust(args: Namespace) -> seal.Trust:
    """Return whose signature is taken: by default that of this machine."""
    trust = seal.in_key_of(args.key) if args.key else seal.own(seal.KEY)
    return replace(trust, unsigned=args.unsigned)


def _put(backup: restore.CompleteBackup, bar: Bar) -> None:
    try:
        restore.restore(backup, SystemHost(), bar)
    except BaseException:
        if Paths(backup.config).restoring.exists():
            sys.stderr.write("ddwd: the restore is not finished and the portal stays stopped: run it again\n")
        raise


def _checked(backup: restore.CompleteBackup, lost: list[str], left_out: list[str]) -> VerbResult:
    manifest = backup.manifest
    facts: dict[str, object] = {"portal": manifest.portal, "host": manifest.host, "began": manifest.began}
    facts |= {"lost": lost, "left_out": left_out}
    lines = [
        f"backup of {manifest.host} by ddwd {manifest.portal}, as of {manifest.began}: complete",
        *_contents(manifest, backup.config),
        *_left_out(left_out),
        *(f"would be removed here: {line}" for line in lost),
        "it needs --replace to be restored here" if lost else "it can be restored here",
    ]
    return VerbResult(facts | {"bytes": manifest.bytes}, lines, 1 if lost else 0)


def _start(backup: restore.CompleteBackup, *, as_json: bool) -> VerbResult:
    """Start the portal, wait until it is sound, and have missing files retrieved again."""
    answer = SystemHost().pipe(["systemctl", "start", "ddwd.service"])
    if answer.status:
        raise PeerRefusedError(
            f"restored, and the portal does not start: {answer.complaint}; see: systemctl status ddwd"
        )
    config = load()
    until_up(lambda: not _broken(config), SystemClock(), sleep, _LIMIT_SECONDS)
    broken = _broken(config)
    Requests(Paths(config).requests).submit(Request("reconcile"))
    return _restored(backup, broken, refetch(config, as_json=as_json))


def _broken(config: Config) -> list[Problem]:
    return [one for one in examine(context_of(config)).problems if one.severity is Severity.BROKEN]


def _restored(backup: restore.CompleteBackup, broken: list[Problem], outcome: RefetchOutcome) -> VerbResult:
    manifest = backup.manifest
    data = {
        "restored": manifest.set,
        "began": manifest.began,
        "broken": [one.as_json() for one in broken],
        "fetched_again": outcome.back,
        "not_fetched": outcome.lost,
        "under_way": outcome.waiting,
    }
    lines = [f"restored as of {manifest.began}, and started"]
    if outcome.asked:
        lines.append(
            f"{outcome.back} of {outcome.asked} published studies with missing files are on disk again"
        )
    lines += unfinished(outcome)
    lines += [f"{one.part}: {one.line}" for one in broken]
    lines.append("the modalities have to send again what they sent after that; see: ddwd status")
    return VerbResult(data, lines, 0 if not broken and outcome.asked == outcome.back else 1)


RESTORE = Command(
    "restore",
    "restore a backup onto this machine",
    prints(_restore),
    (
        Argument("folder", type=Path, metavar="DIR", help="the folder of the backup"),
        flag("--dry-run", "only check the backup and this machine"),
        Argument("--key", type=Path, metavar="FILE", help="the public key of the machine that made it"),
        flag("--unsigned", "take a backup whose signature does not hold, or that has none"),
        flag("--replace", "remove what this machine holds"),
    ),
    about="""It is for a machine on which the portal is installed and has received no study. Otherwise it
refuses and lists what would be lost, unless you add --replace. It checks the signature and every
byte of the backup before it changes anything; --dry-run names each file that is not as it was. A
backup of another machine needs its public key: --key DIR/public.pem, if the ID that is printed is
the one that ddwd backup printed there. One of 0.2.0 has no signature and needs --unsigned. Then it stops the portal and restores databases, files, settings and
passwords. It starts the portal, both Orthancs and the disk are compared, and published files
that are missing here are retrieved from ORTHANC2. Files that are in the output already are never
removed or replaced. Modalities have to send again what they sent after the backup was made.
If it is interrupted, the portal stays stopped: run it again. The old machine must stay off.""",
    exits={
        0: "restored, and all is well; with --dry-run: the backup can be restored",
        1: "this machine holds studies, and --replace was not given; or restored, and something is not well: it"
        " is listed",
        65: "only root may; the backup is damaged, of a newer version, or signed by no key that is trusted",
        66: "DIR holds no complete backup",
        69: "PostgreSQL does not answer",
        74: "no room",
        76: "PostgreSQL or systemd refused",
        78: "the settings in the backup cannot be used",
    },
    answer=(
        sometimes("damaged", list[str], "with --dry-run: files that are not as they were, if there are some"),
        sometimes("portal", str, "with --dry-run: version of the portal that made the backup"),
        sometimes("host", str, "with --dry-run: name of the machine that made it"),
        sometimes("began", str, "when the backup began"),
        sometimes("bytes", int, "with --dry-run: bytes of the backup"),
        sometimes("lost", list[str], "with --dry-run: what would be removed here"),
        sometimes("left_out", list[str], "with --dry-run: what a restore leaves out of a database"),
        sometimes("restored", str, "the name of the backup that was restored"),
        sometimes("broken", list[Problem], "what is broken after the restore"),
        sometimes("fetched_again", int, "studies whose missing files are on disk again"),
        sometimes("not_fetched", int, "studies with files that ORTHANC2 cannot give"),
        sometimes("under_way", int, "studies that are still retrieved"),
    ),
    needs_config=False,
)
