"""`python -m tests.faults [--seed N] [--rounds N] [--only N] [--idle N]`: the fault campaign in a machine of its own (`make faults`).

Prints a line for each round and the figures at the end, which also go to dist/faults.json. Exit status 1 where the promise was
broken; what explains it is then kept in build/faults/.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.appliance.conftest import OUTPUT_DIR, Portal
from tests.faults.campaign import Campaign, evidence, plan, summary
from tests.machine import Machine
from tests.machine.__main__ import newest_deb
from tests.machine.host import REPO, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.campaign import Outcome

VOLUMES = {OUTPUT_DIR: "2g"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rounds; 0 where the promise held in each and `ddwd verify --all` agrees."""
    parser = argparse.ArgumentParser(prog="make faults", description="fault rounds in a booted machine")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000_000))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--only", type=int, help="this one round, to replay it")
    parser.add_argument("--idle", type=int, default=0, help="associations that are open and send nothing")
    options = parser.parse_args(argv)
    numbers = range(options.rounds) if options.only is None else [options.only]
    say(f"seed {options.seed}, {len(numbers)} rounds")
    with tempfile.TemporaryDirectory(prefix="ddwd-faults-") as folder, Machine(volumes=VOLUMES) as machine:
        portal = Portal(machine, newest_deb())
        portal.install()
        portal.machine.run("systemctl mask --now ddwd-doctor.timer")  # its study would be nobody's
        outcomes = run(machine, Path(folder), options.seed, numbers, options.idle)
        proved = machine.run(["ddwd", "verify", "--all"], check=False, timeout=600)
    # all of it where something was found: the machine is gone
    lines = proved.stdout.strip().splitlines()
    say("\n".join(lines if proved.returncode else lines[-1:]) + proved.stderr)
    figures = report(options.seed, outcomes, verify_exit_status=proved.returncode)
    say(json.dumps(figures, indent=1))
    return int(proved.returncode != 0 or not all(outcome.holds for outcome in outcomes))


def run(machine: Machine, folder: Path, seed: int, numbers: Sequence[int], idle: int = 0) -> list[Outcome]:
    """Run these rounds of a campaign, beside `idle` associations that send nothing.

    A round that breaks off or breaks the promise leaves its evidence.
    """
    campaign = Campaign(machine, folder, idle)
    outcomes: list[Outcome] = []
    for number in numbers:
        this = plan(seed, number)
        outcome = campaign.run(this)
        outcomes.append(outcome)
        report(seed, outcomes)
        say(outcome.line())
        if outcome.holds:
            campaign.tidy(this)
            continue
        kept = REPO / "build" / "faults" / f"{seed}-{number}"
        evidence(machine, outcome, kept)
        say(f"FAILED: see {kept}; again: make faults SEED={seed} ROUND={number}")
        if outcome.broken_off:
            campaign.recover()
    return outcomes


def report(seed: int, outcomes: list[Outcome], **more: int) -> dict[str, object]:
    """Write the figures so far to dist/faults.json, so that a campaign cut short leaves them."""
    figures = summary(outcomes) | {"seed": seed, **more}
    target = REPO / "dist" / "faults.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


if __name__ == "__main__":
    sys.exit(main())
