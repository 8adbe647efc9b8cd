"""A user of the portal's races root: no verb changes anything elsewhere, and none waits for a pipe.

The table of privileged operations in docs/security.md names each verb of CASES, and no other (tests/unit/test_security.py).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import installed
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import CompletedProcess

    from tests.appliance.conftest import Portal
    from tests.studies import Study

DATA, RUN = "/var/lib/ddwd", "/run/ddwd"
STATE = f"{DATA}/state"
REQUESTS = f"{STATE}/requests"
VICTIM = "/etc/victim"
MADE = f"{DATA}/monitor/made"
"""A folder that root writes to by the operator's wish, below one of user ddwd-monitor's."""
BACKUP = "/root/backup"
RACER = "/srv/planted.py"
LIMIT = 240
"""Seconds of the longest verb, a restore, on a busy machine; none may wait for a pipe."""
NO_STUDY = "0" * 8 + "-00000000" * 4


@dataclass(frozen=True)
class Case:
    """A verb as root runs it, how often, and what user ddwd (or another one) races meanwhile."""

    command: str
    races: tuple[str, ...]
    times: int = 4
    user: str = "ddwd"


_ASKED = (REQUESTS,)
CASES = {
    "ddwd pause": Case("ddwd pause", _ASKED),
    "ddwd resume": Case("ddwd resume", _ASKED),
    "ddwd reconcile": Case("ddwd reconcile", _ASKED),
    "ddwd retention --now": Case("ddwd retention --now", _ASKED),
    "ddwd retry": Case("ddwd retry {study}", (*_ASKED, f"{DATA}/courier=now")),
    "ddwd quarantine release": Case("ddwd quarantine release --all", (*_ASKED, f"{DATA}/quarantine/1.2.3")),
    "ddwd hooks retry": Case("ddwd hooks retry", (f"{DATA}/hooks/waiting=now",), user="ddwd-hooks"),
    "ddwd hooks drop": Case(f"ddwd hooks drop {NO_STUDY}", (f"{DATA}/hooks/waiting=x",), user="ddwd-hooks"),
    "ddwd destinations retry": Case("ddwd destinations retry", (f"{DATA}/courier=now",)),
    "ddwd doctor --send": Case(
        "ddwd doctor --send", (f"{RUN}/doctor=last.json",), times=2, user="ddwd-doctor"
    ),
    "ddwd credentials rotate": Case("ddwd credentials rotate --yes", (REQUESTS,), times=1),
    "ddwd tls init": Case("ddwd tls init --renew scp", (REQUESTS,), times=1),
    "ddwd tls issue": Case(f"ddwd tls issue CT1 --into {MADE}", (MADE,), user="ddwd-monitor"),
    "ddwd link": Case(f"ddwd link --roles gateway {MADE}/link", (MADE,), user="ddwd-monitor"),
    "ddwd support-bundle": Case(
        f"ddwd support-bundle --output {MADE}", (MADE,), times=2, user="ddwd-monitor"
    ),
    "ddwd prove": Case(f"ddwd prove {{study}} --output {MADE}", (MADE,), times=2, user="ddwd-monitor"),
    "ddwd backup": Case(
        f"ddwd backup {BACKUP}", (f"{STATE}/custody", f"{DATA}/quarantine/1.2.3", REQUESTS), times=2
    ),
    "ddwd restore": Case(
        f"ddwd restore --replace {BACKUP}",
        (
            f"{STATE}/custody",
            f"{STATE}/ledger",
            REQUESTS,
            f"{DATA}/quarantine/1.2.3",
            f"{DATA}/received_dicom/.ddwd",
        ),
        times=2,
    ),
    "ddwd try": Case(f"timeout --signal=INT 20 ddwd try {MADE}/try", (MADE,), times=2, user="ddwd-monitor"),
    "ddwd-provision": Case(
        # a drop folder of 0.2.0, which is handed over to its user
        f"chown ddwd {DATA}/inbox; systemctl restart ddwd-provision",
        (REQUESTS, f"{DATA}/inbox/sent"),
        times=4,
    ),
    "maintainer scripts": Case(
        "DPKG_MAINTSCRIPT_PACKAGE=ddwd /var/lib/dpkg/info/ddwd.postinst configure $(dpkg-query -W -f '${{Version}}' ddwd)",
        (REQUESTS, f"{DATA}/conflicts/gateway=x"),
        times=1,
    ),
}
"""By the name that docs/security.md has for it."""
READERS = (
    "ddwd status", "ddwd status --json", "ddwd doctor", "ddwd studies", "ddwd trace {study}", "ddwd verify --all", "ddwd retention",
    "ddwd quarantine list", "ddwd hooks list", "ddwd destinations list", "ddwd reconcile --dry-run", "ddwd-top --once",
    "ddwd support-bundle --output /root/bundle.tar.gz", "ddwd prove {study} --output /root/proof.json", "ddwd routes list", "ddwd backup /root/another",
)  # fmt: skip


@pytest.fixture(scope="module")
def racing(deb: Path) -> Iterator[Portal]:
    """A machine of its own, with one study, one entry in quarantine, one folder of an operator's, and the victim."""
    with installed(deb) as portal:
        portal.machine.path(RACER).write_text(
            (Path(__file__).parent / "planted.py").read_text(encoding="utf-8"), encoding="utf-8"
        )
        portal.machine.run(
            f"install -d -m 0700 {VICTIM} && install -m 0600 /dev/null {VICTIM}/file && echo precious >{VICTIM}/file && "
            f"cp -p {VICTIM}/file {VICTIM}/1.json && install -d {VICTIM}/.ddwd && "
            f"install -d -o ddwd -g ddwd {DATA}/quarantine/1.2.3 && install -d -o ddwd-monitor {MADE} && "
            f"printf '{{}}' >{DATA}/quarantine/1.2.3/0123456789abcdef0123456789abcdef.json && "
            f"ddwd backup {BACKUP}"
        )
        yield portal


@pytest.fixture(scope="module")
def study(racing: Portal, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A delivered study."""
    made = made_up_ct(tmp_path_factory.mktemp("planted") / "ct", 3, seed=90, size=64)
    racing.deliver(made)
    return made


def _victim(portal: Portal) -> str:
    """Owner, group, mode, name and content of all that must stay."""
    return portal.machine.run(
        f"find {VICTIM} -printf '%U %G %m %p\\n' | sort; cat {VICTIM}/file {VICTIM}/1.json; stat -c '%U %a %n' /etc /root"
    ).stdout


@contextmanager
def _raced(portal: Portal, case: Case) -> Iterator[None]:
    words = " ".join(case.races)
    portal.machine.run(
        f"systemd-run --quiet --collect --unit=racer --uid={case.user} python3 {RACER} {VICTIM} {words}"
    )
    try:
        yield
        assert portal.machine.is_active("racer")
    finally:
        # a folder that was away comes back
        portal.machine.run("systemctl kill --signal=KILL racer; systemctl stop racer", check=False)
        for folder in (race.partition("=")[0] for race in case.races):
            portal.machine.run(
                f"[ ! -L {folder} ] && [ ! -p {folder} ] || rm {folder}; [ ! -d {folder}.was ] || [ -d {folder} ] || mv {folder}.was {folder}; "
                f"[ ! -d {folder} ] || find {folder} -type l -lname '{VICTIM}/*' -delete"
            )


def _run(portal: Portal, command: str) -> CompletedProcess[str]:
    """Run a verb as root. Raises AssertionError where it does not end, or ends with a trace."""
    ended = portal.machine.run(command, check=False, timeout=LIMIT)
    said = f"{command}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
    assert ended.returncode not in {124, 137}, said
    assert "Traceback" not in ended.stderr, said
    return ended


@pytest.mark.timeout(900, func_only=True)
def test_no_verb_waits_for_a_pipe_in_place_of_a_file(racing: Portal, study: Study) -> None:
    places = _own_files(racing)
    racing.machine.run("systemctl stop ddwd-extractor ddwd-scp ddwd-courier ddwd-signer ddwd-doctor.timer")
    racing.machine.run(
        f"for f in {' '.join(places)}; do mv $f $f.was; runuser -u $(stat -c %U $f.was) -- mkfifo $f; done"
    )
    try:
        for command in READERS:
            _run(racing, command.format(study=study.uid))
    finally:
        racing.machine.run(
            f"for f in {' '.join(places)}; do rm -f $f; mv $f.was $f; done; rm -rf /root/another /root/bundle.tar.gz /root/proof.json"
        )
        racing.machine.run("systemctl restart ddwd", timeout=300)
        racing.wait_active()


def _own_files(portal: Portal) -> list[str]:
    """The files of the portal's users that a verb reads: status files, ledger, custody records, settings, quarantine, chain."""
    folders = f"{STATE} {DATA}/quarantine {DATA}/chain {RUN}/extractor {RUN}/scp {RUN}/courier {RUN}/doctor {RUN}/signer"
    found = portal.machine.run(f"find {folders} ! -user root -type f -not -path '*/before-*'").stdout.split()
    assert any("/custody/" in path for path in found)
    assert any("/ledger/" in path for path in found)
    assert f"{RUN}/extractor/status.json" in found
    return found


@pytest.mark.parametrize("plant", ["mkfifo", "mkdir", "ln -s /etc/shadow"])
def test_what_the_gateway_s_user_planted_keeps_the_extractor_from_nothing(
    racing: Portal, tmp_path: Path, plant: str
) -> None:
    name = f"{DATA}/conflicts/gateway/{NO_STUDY}.{'0' * 32}"
    restarts = racing.machine.show("ddwd-extractor", "NRestarts")
    racing.machine.run(f"{plant} {name}.dcm", user="ddwd-gateway")
    racing.machine.wait_for(
        lambda: racing.machine.run(f"test -e {name}.bad -o -L {name}.bad", check=False).returncode == 0,
        limit=60, what="what was planted was not put aside",
    )  # fmt: skip
    racing.deliver(made_up_ct(tmp_path / "after", 2, seed=91 + len(plant), size=16))
    assert racing.machine.show("ddwd-extractor", "NRestarts") == restarts
    said = racing.machine.run("ddwd doctor", check=False).stdout
    assert "1 object put aside by ORTHANC1 was damaged and ignored" in " ".join(said.split())
    racing.machine.run(f"rm -r {name}.bad")


@pytest.mark.parametrize("below", ["", "/try", "/try/deeper"])
def test_a_trial_of_root_follows_no_link_that_another_user_put_there(racing: Portal, below: str) -> None:
    before = _victim(racing)
    racing.machine.run(f"ln -sT {VICTIM} {MADE}/link", user="ddwd-monitor")
    try:
        refused = _run(racing, f"timeout 60 ddwd try {MADE}/link{below}")
    finally:
        racing.machine.run(f"rm {MADE}/link")
    assert (refused.returncode, "can be replaced by another user" in refused.stderr) == (64, True)
    assert _victim(racing) == before


@pytest.mark.timeout(900, func_only=True)
@pytest.mark.parametrize("name", CASES)
def test_no_verb_of_root_changes_anything_elsewhere(racing: Portal, study: Study, name: str) -> None:
    case = CASES[name]
    before = _victim(racing)
    with _raced(racing, case):
        for _ in range(case.times):
            _run(racing, case.command.format(study=study.uid))
    assert _victim(racing) == before
    if name == "ddwd restore":
        assert "restored as of" in _run(racing, case.command).stdout
        assert _victim(racing) == before
