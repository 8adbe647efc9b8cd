"""`ddwd try` as its user meets it: it stops when told or when one part dies, leaves no process, and says what is wrong."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from ddwd.core.errors import DdwdError
from ddwd.trial import sandbox
from tests.integration.trial import STOP_LIMIT, Trial, ddwd, wait_for
from tests.studies import Study, made_up_ct, published

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PARTS = ("orthanc/gateway", "orthanc/storage", "daemon.scp", "daemon.extractor")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_leaves_no_process(begin: Callable[..., Trial], sign: signal.Signals) -> None:
    trial = begin()
    trial.wait_up()
    assert all(any(part in line for line in trial.processes().values()) for part in PARTS)
    assert trial.stop(sign) == 0
    assert trial.processes() == {}
    assert not trial.up()


@pytest.mark.parametrize("part", PARTS)
def test_when_one_part_dies_it_is_named_and_the_others_are_stopped(
    begin: Callable[..., Trial], part: str
) -> None:
    trial = begin()
    trial.wait_up()
    os.kill(trial.pid(part), signal.SIGKILL)
    wait_for(trial.ended, "`ddwd try` did not stop", STOP_LIMIT)
    assert trial.process.returncode == 1
    assert trial.processes() == {}
    name = part.removeprefix("orthanc/").removeprefix("daemon.")
    assert f"{name} was ended by SIGKILL" in trial.said.read_text()


def test_killed_it_takes_its_processes_with_it(begin: Callable[..., Trial]) -> None:
    trial = begin()
    trial.wait_up()
    trial.process.kill()
    wait_for(lambda: not trial.processes(), "processes were left", STOP_LIMIT)


def test_a_second_run_on_the_folder_goes_on_where_the_first_stopped(
    begin: Callable[..., Trial], tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path / "ct", 4, seed=31, size=16)
    trial = begin(extra="stable_age: 1\n")
    trial.wait_up()
    trial.dcmsend(study.paths)
    trial.stop()  # in mid-study: nothing is published yet, or all is
    trial = begin()
    trial.wait_up()
    trial.wait_complete(study)
    inodes = _inodes(trial, study)
    trial.stop()
    trial = begin()
    trial.wait_up()
    later = made_up_ct(tmp_path / "later", 1, seed=32, size=16)
    trial.dcmsend(later.paths)
    trial.wait_complete(later)
    assert _inodes(trial, study) == inodes


def _inodes(trial: Trial, study: Study) -> set[int]:
    return {path.stat().st_ino for paths in published(study.uid, trial.output).values() for path in paths}


def test_a_folder_in_use_is_refused(portal: Trial) -> None:
    done = ddwd(portal.folder, "try", portal.folder)
    assert done.returncode == 1
    assert "another `ddwd try` runs in this folder" in done.stderr
    assert portal.up()


def test_a_taken_port_is_named_with_its_key_and_nothing_is_started(tmp_path: Path) -> None:
    base = sandbox.free_ports()[0]
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", base + 3))
        holder.listen()
        done = ddwd(tmp_path / "t", "try", tmp_path / "t", "--port-base", str(base))
    assert done.returncode == 78
    assert f"storage.http_port: port {base + 3} is taken" in done.stderr


def test_a_folder_that_is_no_trial_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ddwd.yaml").write_text("poll_interval: 2\n")
    done = ddwd(tmp_path, "try", tmp_path)
    assert done.returncode == 78
    assert "is not the file of a trial in this folder" in done.stderr


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = ddwd(tmp_path, "try", tmp_path / "file" / "t")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "file/t: Not a directory" in done.stderr


def test_the_caller_s_environment_does_not_reach_the_settings(
    begin: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "elsewhere"))
    trial = begin()
    trial.wait_up()
    assert trial.output == trial.folder / "received_dicom"
    assert not (tmp_path / "elsewhere").exists()


def test_without_orthanc_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PLUGIN_DIR", tmp_path)
    with pytest.raises(DdwdError, match="apt install orthanc orthanc-dicomweb"):
        sandbox.Sandbox.prepare(tmp_path / "t")
    assert not (tmp_path / "t").exists()
