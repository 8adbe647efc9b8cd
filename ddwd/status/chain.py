"""State of the chain for the status, the doctor and the metrics, from ddwd-signer's status file. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ddwd.config.paths import Paths
from ddwd.core.printable import many
from ddwd.core.problem_codes import Code
from ddwd.status.formatting import span, time
from ddwd.status.units import log_command
from ddwd.store.status_files import CHAIN_PUBLICATION, SIGNER, ChainPublication, SignerStatus

if TYPE_CHECKING:
    from ddwd.config.schema import Config
    from ddwd.core.clock import Clock

_STALE_SECONDS = 180.0
"""More than the signer waits after a failure, and than a walk through the chain takes."""
REMEDY = log_command("ddwd-signer")


@dataclass(frozen=True, slots=True)
class ChainState:
    """What the signer reports, and the problem that it is, in one line, empty if there is none; `code` is the kind of the problem."""

    facts: SignerStatus
    problem: str = ""
    code: Code = Code.CHAIN_BEHIND


def state_of(config: Config, clock: Clock) -> ChainState | None:
    """Return the state of the chain; None if no signer has written any, as with `ddwd try`."""
    facts = SIGNER.read_or_none(Paths(config).signer_status)
    if facts is None:
        return None
    published = CHAIN_PUBLICATION.read_or_none(Paths(config).chain_publication) or ChainPublication()
    wants = config.chain.publish_to or config.chain.timestamp_url
    if problem := _problem(facts, clock):
        return ChainState(facts, problem, Code.CHAIN_BROKEN if facts.is_broken else Code.CHAIN_BEHIND)
    if published.problem and wants:
        text = f"heads of the chain do not get elsewhere: {published.problem}"
        return ChainState(facts, text, Code.CHAIN_UNPUBLISHED)
    return ChainState(facts)


def _problem(facts: SignerStatus, clock: Clock) -> str:
    if facts.is_broken:
        return f"the chain is broken, and no event is entered any more: {facts.problem}"
    if facts.problem:
        return f"events wait to be entered into the chain: {facts.problem}"
    try:
        age = (clock.utc() - datetime.fromisoformat(facts.at)).total_seconds()
    except (ValueError, TypeError):
        return "the signer's status has no time: events may wait to be entered into the chain"
    if age > _STALE_SECONDS:
        return f"the signer has said nothing for {span(age)}: events wait to be entered into the chain"
    return ""


def text_of(state: ChainState) -> str:
    """Return one line about a chain for people."""
    facts = state.facts
    entries = many(facts.entries, "entry", "entries")
    return f"{entries}, signed at {time(facts.signed_at)}; head published at {time(facts.published_at)}"
