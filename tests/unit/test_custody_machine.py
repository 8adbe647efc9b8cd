"""Whatever is lost, broken, repeated, restored or cut, in whatever order: what an Orthanc holds ends on disk once, unchanged.

A hypothesis state machine plays with the whole pipeline over a model of both Orthancs; how long, says tests/depth.py.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ddwd.store.operator_requests import Request
from tests.depth import examples
from tests.unit.fakes import FakeOrthanc, Image, image, power_cut
from tests.unit.portal import Portal

STUDIES = st.integers(1, 2)
NUMBERS = st.integers(1, 5)
PATIENTS = st.sampled_from(["A", "B"])
SIDES = st.sampled_from(["gateway", "storage"])
HEALING_SECONDS = 1500.0


class Custody(RuleBasedStateMachine):
    """Rules are what the world does; `ages` lets the portal work."""

    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory()
        self.portal = Portal(Path(self._home.name))
        self.ever: dict[str, bytes] = {}
        self.sent: set[bytes] = set()
        self.backups: dict[str, dict[str, Any]] = {}

    def teardown(self) -> None:
        """Heal everything, let time pass, and hold what is on disk against what the Orthancs hold."""
        try:
            self._heal()
            self.portal.run(HEALING_SECONDS)
            self._release()
            self.portal.run(HEALING_SECONDS)
            self._judge()
        finally:
            self._home.cleanup()

    # --- what senders do ----------------------------------------------------------------------------------------------

    @rule(study=STUDIES, number=NUMBERS, patient=PATIENTS, side=SIDES, forwarded=st.booleans())
    def store(self, study: int, number: int, patient: str, side: str, forwarded: bool) -> None:
        """An image comes, or comes again; on the gateway Lua forwards it at once or has lost it."""
        self._store(image(study, number, patient=patient), side, forwarded=forwarded)

    @rule(study=STUDIES, number=NUMBERS, side=SIDES)
    def store_other_content(self, study: int, number: int, side: str) -> None:
        """Other content under a UID; an Orthanc that holds the UID keeps the first (its door keeps the other elsewhere)."""
        self._store(image(study, number, patient="A", pixels=b"other" * 13), side, forwarded=False)

    def _store(self, one: Image, side: str, *, forwarded: bool) -> None:
        self.sent.add(one.content)
        self._node(side).store(one)
        if side == "gateway" and forwarded and not self.portal.storage.down:
            self.portal.storage.store(self.portal.gateway.images[one.orthanc_id])

    # --- what breaks --------------------------------------------------------------------------------------------------

    @rule(side=SIDES)
    def peer_goes(self, side: str) -> None:
        """An Orthanc does not answer."""
        self._node(side).down = True

    @rule(side=SIDES)
    def peer_comes(self, side: str) -> None:
        """It answers again."""
        self._node(side).down = False

    @rule(what=st.sampled_from(["scp_up", "broken", "lies"]))
    def way_changes(self, what: str) -> None:
        """The SCP goes away or comes back; C-MOVE fails for all, or says success and sends nothing, or works again."""
        setattr(self.portal.mover, what, not getattr(self.portal.mover, what))

    @rule()
    def jobs_change(self) -> None:
        """STOW jobs get lost, or no longer."""
        self.portal.gateway.lose_jobs = not self.portal.gateway.lose_jobs

    @rule()
    def rest_changes(self) -> None:
        """Storage answers each file that comes by REST with an error, or no longer."""
        self.portal.storage.is_failing = not self.portal.storage.is_failing

    @rule(study=STUDIES, number=NUMBERS)
    def stow_refuses(self, study: int, number: int) -> None:
        """One image does not get to storage by STOW-RS, ever."""
        self.portal.gateway.unsendable.add(image(study, number).orthanc_id)

    @rule(study=STUDIES, number=NUMBERS)
    def poison(self, study: int, number: int) -> None:
        """One image cannot be moved."""
        self.portal.mover.poisoned.add(image(study, number).sop_uid)

    @rule(side=SIDES, data=st.data())
    def changes_are_lost(self, side: str, data: st.DataObject) -> None:
        """Rows of /changes never appear."""
        rows = self._node(side).rows
        keep = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
        rows[:] = [row for row, kept in zip(rows, keep, strict=True) if kept]

    @rule(study=STUDIES, patient=PATIENTS, side=SIDES)
    def study_is_deleted(self, study: int, patient: str, side: str) -> None:
        """Someone deletes a study on one Orthanc."""
        self._node(side).delete_study(image(study, patient=patient).study_id)

    @rule(side=SIDES)
    def backup_is_taken(self, side: str) -> None:
        """The database and the files are saved."""
        node = self._node(side)
        names = ("images", "rows", "_seq", "_told")
        self.backups[side] = {name: copy.copy(getattr(node, name)) for name in names}

    @rule(side=SIDES)
    def backup_is_restored(self, side: str) -> None:
        """An Orthanc goes back in time."""
        for name, value in self.backups.get(side, {}).items():
            setattr(self._node(side), name, copy.copy(value))

    # --- what happens to the portal -----------------------------------------------------------------------------------

    @rule(turns=st.integers(1, 30))
    def ages(self, turns: int) -> None:
        """Time passes, half a second a turn."""
        for _ in range(turns):
            before = {Path(name).parts[:2] for name in self.portal.published()}
            self.portal.run(0.5)
            self._none_is_partial(before)

    @rule(step=st.integers(0, 12), turns=st.integers(1, 12))
    def power_is_cut(self, step: int, turns: int) -> None:
        """The power goes at some durable step, if it gets there; then the extractor starts anew."""
        power_cut(step, lambda: self.portal.run(turns / 2))
        self.portal.start()

    @rule(data=st.data(), how=st.sampled_from(["cut", "flip", "delete"]))
    def ledger_is_damaged(self, data: st.DataObject, how: str) -> None:
        """The ledger is torn, a bit of it flips, or it is gone; then the extractor starts anew."""
        files = sorted(self.portal.paths.ledger.glob("*.jsonl"))
        if files:
            content = bytearray(files[-1].read_bytes())
            place = data.draw(st.integers(0, max(0, len(content) - 1)))
            if how == "delete":
                files[-1].unlink()
            elif how == "cut":
                files[-1].write_bytes(content[:place])
            elif content:
                content[place] ^= 1 << data.draw(st.integers(0, 7))
                files[-1].write_bytes(content)
        self.portal.start()

    @rule(study=STUDIES, patient=PATIENTS)
    def operator_retries(self, study: int, patient: str) -> None:
        """`ddwd retry`."""
        self.portal.requests.submit(Request("retry", image(study, patient=patient).study_id))

    # --- promises -----------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_published_is_ever_taken_back_or_changed(self) -> None:
        """And everything published was sent by someone."""
        there = self.portal.published()
        for name, content in self.ever.items():
            assert there.get(name) == content
        assert set(there.values()) <= self.sent
        self.ever = there

    def _none_is_partial(self, before: set[tuple[str, ...]]) -> None:
        """A study that has just appeared holds all that the gateway held."""
        there = self.portal.published()
        for patient, uid in {Path(name).parts[:2] for name in there} - before:
            held = [
                one
                for one in self.portal.gateway.images.values()
                if (one.patient_id, one.study_uid) == (patient, uid)
            ]
            for one in held:
                assert f"{patient}/{uid}/{one.series_uid}/{one.sop_uid}.dcm" in there or self._is_set_aside(
                    one
                )

    def _is_set_aside(self, one: Image) -> bool:
        record = self.portal.custody.read(one.study_id)
        return record is not None and one.orthanc_id in record.set_aside

    def _heal(self) -> None:
        self.portal.mover.scp_up, self.portal.mover.broken, self.portal.mover.lies = True, False, False
        self.portal.mover.poisoned.clear()
        self.portal.close_forwarding(is_closed=False)
        self.portal.gateway.down = self.portal.storage.down = False

    def _release(self) -> None:
        for entry in self.portal.quarantine.entries():
            if entry.subject.kind == "undeliverable":
                self.portal.requests.submit(Request("release", item=entry.id))

    def _judge(self) -> None:
        there = self.portal.published()
        kept = {path.stem: path for path in self.portal.paths.quarantine.rglob("*.dcm")}
        digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in kept.values()}
        for node in (self.portal.gateway, self.portal.storage):
            for one in node.images.values():
                name = f"{one.patient_id}/{one.study_uid}/{one.series_uid}/{one.sop_uid}.dcm"
                assert name in there
                in_quarantine = hashlib.sha256(one.content).hexdigest() in digests
                assert there[name] == one.content or in_quarantine
        assert set(self.portal.gateway.images) <= set(self.portal.storage.images)
        assert self.portal.open == {}
        assert self.portal.leftovers() == []
        assert self.portal.records_not_as_stated() == []
        assert [
            entry for entry in self.portal.quarantine.entries() if entry.subject.kind == "undeliverable"
        ] == []

    def _node(self, side: str) -> FakeOrthanc:
        return self.portal.gateway if side == "gateway" else self.portal.storage


Custody.TestCase.settings = settings(examples(4, 40), stateful_step_count=25)
TestCustody = pytest.mark.deep(Custody.TestCase)
