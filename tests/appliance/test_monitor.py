"""ddwd-monitor in the booted machine: figures that promtool accepts, an alert that arrives, and no harm when it dies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import Portal, installed
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIGURES = "/run/ddwd/monitor/ddwd.prom"
HOOK = """
import http.server, sys
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        open('/tmp/alerts', 'ab').write(body + b'\\n')
        self.send_response(204); self.end_headers()
http.server.HTTPServer(('127.0.0.1', 9099), Hook).serve_forever()
"""


@pytest.fixture(scope="module")
def own(deb: Path) -> Iterator[Portal]:
    """A machine of its own, with alerts at once and a receiver for them."""
    with installed(deb) as fresh:
        machine = fresh.machine
        machine.path("/root/hook.py").write_text(HOOK, encoding="utf-8")
        machine.run("systemd-run --unit=hook python3 /root/hook.py")
        machine.run(
            "printf 'alerts:\\n  after: 0\\n  webhook: http://127.0.0.1:9099/\\n' > /etc/ddwd/ddwd.yaml"
        )
        machine.run("systemctl restart ddwd")
        fresh.wait_active()
        yield fresh


def test_the_figures_are_there_and_sound(own: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 5, seed=95, size=32)
    own.deliver(study)
    own.machine.wait_for(
        lambda: "ddwd_images_published_total 5.0" in own.machine.run(f"cat {FIGURES}").stdout,
        limit=30,
        every=1,
        what="the images are not counted",
    )
    checked = own.machine.run(f"promtool check metrics < {FIGURES}")
    assert checked.stdout + checked.stderr == ""
    anyone = own.machine.run(f"head -n 1 {FIGURES}", user="daemon")
    assert anyone.stdout.startswith("# HELP")


def test_a_stopped_storage_is_told_and_that_it_is_over(own: Portal) -> None:
    def said() -> str:
        return own.machine.run("cat /tmp/alerts", check=False).stdout

    own.machine.run("systemctl stop ddwd-storage")
    try:
        own.machine.wait_for(
            lambda: "ddwd-storage is inactive" in said(), limit=120, every=1, what="no alert came"
        )
    finally:
        own.machine.run("systemctl start ddwd-storage")
        own.wait_active()
    own.machine.wait_for(lambda: '"over": ["' in said(), limit=150, every=1, what="its end was not told")
    for line in said().splitlines():
        assert set(json.loads(line)) == {"at", "subject", "standing", "over"}
    assert "ddwd-storage is" in own.machine.run("journalctl -t ddwd-audit DDWD_EVENT=alert --no-pager").stdout


def test_a_test_alert_says_what_the_other_side_answered(own: Portal) -> None:
    assert own.machine.run("ddwd alert").stdout == "webhook: sent\n"
    own.machine.run("systemctl stop hook")
    failed = own.machine.run("ddwd alert", check=False)
    assert failed.returncode == 1
    assert failed.stdout.startswith("webhook: webhook: ")


def test_a_killed_monitor_comes_back_and_harms_nothing(own: Portal, tmp_path: Path) -> None:
    own.machine.run("systemctl kill -s KILL ddwd-monitor")
    study = made_up_ct(tmp_path / "ct", 5, seed=96, size=32)
    own.deliver(study)
    own.machine.wait_for(
        lambda: own.machine.is_active("ddwd-monitor"), limit=30, what="it does not come back"
    )
