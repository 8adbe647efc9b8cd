"""What an operator sees in the booted machine: the dashboard on a terminal while a CT comes, the trace, the audit, and trouble."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.appliance.conftest import Portal, installed
from tests.machine.host import MachineError
from tests.studies import Study, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPERATOR, STRANGER = "looks", "looksonly"
TERMINAL = "tmux -L sight"


class Screen:
    """A terminal of 80x24 with the dashboard in it."""

    def __init__(self, portal: Portal, user: str) -> None:
        self._portal = portal
        self._user = user

    def start(self) -> None:
        """Open it."""
        self._tmux("new-session -d -x 80 -y 24 'env TERM=screen-256color LANG=C.UTF-8 ddwd-top'")

    def keys(self, *keys: str) -> None:
        """Press these."""
        self._tmux(f"send-keys {' '.join(keys)}")

    def text(self) -> str:
        """What it shows."""
        return self._tmux("capture-pane -p")

    def until(self, words: str, limit: float = 30.0) -> str:
        """Wait until it shows these words; all of it then."""
        shown = ""

        def says() -> bool:
            nonlocal shown
            shown = self.text()
            return words in shown

        try:
            self._portal.machine.wait_for(says, limit=limit, every=0.3, what=f"never said: {words}")
        except MachineError:
            pytest.fail(f"the screen never says {words!r}:\n{shown}", pytrace=False)
        return shown

    def stop(self) -> None:
        """Close it, whatever runs in it."""
        self._portal.machine.run(f"{TERMINAL} kill-server", user=self._user, check=False)

    def _tmux(self, words: str) -> str:
        return self._portal.machine.run(f"{TERMINAL} -u {words}", user=self._user).stdout


@pytest.fixture(scope="module")
def portal(deb: Path) -> Iterator[Portal]:
    """A machine of its own: what other tests left in quarantine is trouble on the screen."""
    with installed(deb) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def users(portal: Portal) -> None:
    """One user in group ddwd, one outside."""
    portal.add_operator(OPERATOR)
    portal.machine.run(["useradd", "--create-home", STRANGER])


@pytest.fixture
def screen(portal: Portal, users: None) -> Iterator[Screen]:
    """The dashboard as a member of group ddwd sees it."""
    screen = Screen(portal, OPERATOR)
    screen.start()
    yield screen
    screen.stop()


@pytest.fixture(scope="module")
def study(portal: Portal, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A CT of some size."""
    return made_up_ct(tmp_path_factory.mktemp("sight") / "ct", 120, seed=90, size=128, patient_id="CT-4711")


def _events(portal: Portal, study: Study) -> list[dict[str, Any]]:
    said = portal.machine.run(
        f"journalctl -t ddwd-audit -o json DDWD_STUDY_UID={study.uid} --no-pager"
    ).stdout
    return [json.loads(line) for line in said.splitlines()]


def test_a_ct_is_seen_on_its_way_through_the_hops(portal: Portal, study: Study, screen: Screen) -> None:
    assert "all is well" in screen.until("in flight: 0")
    sending = threading.Thread(target=portal.send, args=(study,))
    sending.start()
    seen = screen.until("in flight: 1")
    sending.join()
    assert "ORTHANC1" in seen
    finished = screen.until("just finished: 1")
    assert "•••••11" in finished
    assert "CT-4711" not in finished
    screen.keys("u")
    screen.until("CT-4711")
    portal.wait_complete(study)
    screen.keys("Tab", "Enter")
    told = screen.until("complete on disk: 120 images")
    assert study.uid in told
    screen.keys("q")
    screen.until("just finished")
    screen.keys("l")
    assert "published" in screen.until("120 images published")


def test_the_audit_has_every_event_of_the_study_with_its_fields(portal: Portal, study: Study) -> None:
    portal.wait_complete(study)
    found = {row["DDWD_EVENT"]: row for row in _events(portal, study)}
    life = {"received", "forward-started", "forwarded", "retrieve-started", "verified", "published"}
    assert life <= found.keys()
    for row in found.values():
        assert len(row["MESSAGE_ID"]) == 32
        assert row["DDWD_STUDY_UID"] == study.uid
    assert found["published"]["DDWD_INSTANCES"] == "120"
    assert int(found["published"]["DDWD_BYTES"]) > 120 * 128 * 128
    assert found["received"]["DDWD_AET"]
    journal = portal.machine.run("journalctl --no-pager -o json").stdout
    assert "CT-4711" not in journal


@pytest.mark.usefixtures("users")
def test_trace_gives_the_time_at_each_hop(portal: Portal, study: Study) -> None:
    portal.wait_complete(study)
    done = portal.machine.run(["ddwd", "trace", study.uid, "--json"], user=OPERATOR)
    (told,) = json.loads(done.stdout)["studies"]
    assert told["complete"]
    assert [(hop["name"], hop["images"]) for hop in told["hops"]] == [
        ("gateway", 120),
        ("storage", 120),
        ("disk", 120),
    ]
    for hop in told["hops"]:
        assert hop["first"] <= hop["last"] <= told["steps"][-1]["at"]
    text = portal.machine.run(["ddwd", "trace", study.uid], user=OPERATOR).stdout
    assert "complete on disk: 120 images" in text
    assert "CT-4711" not in text


def test_a_killed_storage_turns_its_light_and_is_named(portal: Portal, screen: Screen) -> None:
    screen.until("all is well")
    portal.machine.run("systemctl stop ddwd-storage")
    try:
        screen.until("broken", limit=15)
        screen.until("! ddwd-storage is inactive", limit=30)
    finally:
        portal.machine.run("systemctl start ddwd-storage")
        portal.wait_active()
    screen.until("all is well", limit=60)


def test_a_storage_that_hangs_is_shown_as_such_and_then_as_broken(portal: Portal, screen: Screen) -> None:
    screen.until("all is well")
    portal.machine.run("systemctl kill --kill-whom=main --signal=STOP ddwd-storage")
    try:
        shown = screen.until("does not answer")
        assert "ddwd-storage is" not in shown
        screen.until("broken")
    finally:
        portal.machine.run("systemctl kill --kill-whom=main --signal=CONT ddwd-storage")
    screen.until("all is well", limit=60)


@pytest.mark.usefixtures("users")
def test_a_user_outside_the_group_looks_and_cannot_act(portal: Portal) -> None:
    screen = Screen(portal, STRANGER)
    screen.start()
    try:
        assert "read only" in screen.until("ORTHANC1")
        screen.keys("p")
        screen.until("Pause retrieving?")
        screen.keys("y")
        screen.until("denied")
    finally:
        screen.stop()


@pytest.mark.usefixtures("users")
def test_the_operator_pauses_and_resumes_from_the_dashboard(portal: Portal, screen: Screen) -> None:
    screen.until("all is well")
    screen.keys("p")
    screen.until("Pause retrieving?")
    screen.keys("y")
    screen.until("PAUSED")
    screen.keys("p")
    screen.until("Resume retrieving?")
    screen.keys("y")
    portal.machine.wait_for(lambda: "PAUSED" not in screen.text(), limit=20, what="it stays paused")


@pytest.mark.usefixtures("users")
def test_once_and_json_say_the_same_without_a_terminal(portal: Portal) -> None:
    text = portal.machine.run("ddwd-top --once", user=OPERATOR).stdout
    assert "all is well" in text
    found = json.loads(portal.machine.run("ddwd-top --json", user=OPERATOR).stdout)
    assert found["well"] is True
    assert [hop["name"] for hop in found["hops"]] == ["modality", "gateway", "storage", "scp", "disk"]
    assert found["today"]["studies"] >= 1


def _of(portal: Portal, event: str) -> list[dict[str, Any]]:
    said = portal.machine.run(f"journalctl -t ddwd-audit -o json DDWD_EVENT={event} --no-pager").stdout
    return [json.loads(line) for line in said.splitlines()]


def test_each_record_is_explained_by_the_journal(portal: Portal, study: Study) -> None:
    portal.wait_complete(study)
    said = portal.machine.run("journalctl -t ddwd-audit -x --no-pager DDWD_EVENT=published -n 1").stdout
    assert "A study is complete on disk" in said
    assert f"ddwd verify {study.uid}" in said


def test_a_refused_association_is_told_with_who_it_was(portal: Portal) -> None:
    portal.machine.run("echoscu -aet INTRUDER -aec WRONG 127.0.0.1 11112", check=False)
    assert [row["DDWD_AET"] for row in _of(portal, "association-refused")][-1] == "INTRUDER"


def test_a_deleted_study_is_told_by_the_orthanc_itself(
    portal: Portal, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = made_up_ct(tmp_path_factory.mktemp("deleted") / "ct", 2, seed=91, size=32)
    portal.deliver(made)
    portal.machine.run(
        'P=$(python3 -c \'import json;print(json.load(open("/etc/ddwd/credentials.json"))["gateway"]["ddwd"])\');'
        f' S=$(curl -s -u "ddwd:$P" -d {made.uid} http://127.0.0.1:8042/tools/lookup'
        " | python3 -c 'import json,sys;print(json.load(sys.stdin)[0][\"ID\"])');"
        ' curl -s -u "ddwd:$P" -X DELETE http://127.0.0.1:8042/studies/$S'
    )
    portal.machine.wait_for(
        lambda: any(row.get("DDWD_PEER") == "gateway" for row in _of(portal, "deleted")),
        limit=20,
        every=1,
        what="the deletion is not told",
    )
    portal.send(
        made
    )  # the machine is other tests' too, and images that are missing are a problem of its status


def test_changed_settings_are_told_by_their_names(portal: Portal) -> None:
    portal.machine.run("echo POLL_INTERVAL=4 >> /etc/default/ddwd && systemctl restart ddwd")
    try:
        portal.wait_active()
        portal.machine.wait_for(
            lambda: [row["DDWD_KEYS"] for row in _of(portal, "config-changed")][-1:] == ["poll_interval"],
            limit=30,
            every=1,
            what="the change is not told",
        )
    finally:
        portal.machine.run("sed -i '/^POLL_INTERVAL=4$/d' /etc/default/ddwd && systemctl restart ddwd")
        portal.wait_active()


@pytest.mark.usefixtures("users")
def test_the_dashboard_at_rest_costs_little(portal: Portal, screen: Screen) -> None:
    screen.until("all is well", limit=60)
    script = (
        "P=$(pgrep -u looks -f ddwd-top | tail -n 1); a=$(awk '{print $14+$15}' /proc/$P/stat); sleep 20;"
        " b=$(awk '{print $14+$15}' /proc/$P/stat); echo $((b - a)); grep VmRSS /proc/$P/status"
    )
    ticks, memory = portal.machine.run(script).stdout.splitlines()
    print(f"ddwd-top: {int(ticks) / 20:.1f} % of a core at rest, {memory}")  # noqa: T201 - a figure to look at, no promise of the suite
    assert int(memory.split()[1]) < 150_000
