"""The text of a trace, for the command line and the dashboard."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, NamedTuple

from ddwd.core.printable import many
from ddwd.status.formatting import plain, second

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.status.trace import Step, Trace, TracedHop


class Line(NamedTuple):
    """One line of text; `is_failure` for one that reports a failure."""

    text: str
    is_failure: bool = False


def lines(study: Trace, width: int) -> list[str]:
    """Return the trace as plain text of that width, for the command line."""
    return [line.text for line in marked_lines(study, width)]


def marked_lines(study: Trace, width: int) -> list[Line]:
    """Return the same lines, with failures marked, for the dashboard."""
    shown = [
        f"study      {plain(study.study_uid) or study.study}",
        f"accession  {plain(study.accession) or '-'}    from {plain(study.aet) or '-'}    Orthanc ID {study.study}",
        *([f"route      {study.route}"] if study.route else []),
        *(
            line
            for one in study.namesakes
            for line in _wrapped("same UID   ", f"study {one}, under another PatientID", width)
        ),
        *([f"folder     {plain(study.folder)}"] if study.folder else []),
        "",
        *_wrapped("verdict    ", study.verdict, width),
        *_wrapped("do         ", study.next_step, width),
        "",
        "hop              images  first                     last",
        *(line for hop in study.hops for line in _hop_lines(hop)),
        *(f"  {line}" for line in study.missing),
    ]
    if study.steps:
        shown += ["", "  when                     what"]
    return [*map(Line, shown), *(line for step in study.steps for line in _step_lines(step, width))]


def _step_lines(step: Step, width: int) -> Iterator[Line]:
    """Yield the lines of one event; the first line carries the mark."""
    text = f"{step.event}: {plain(step.text)}" + (f" ({step.meaning})" if step.meaning else "")
    first, *others = _wrapped(f"{' ' if step.ok else '!'} {second(step.at)}  ", text, width)
    yield Line(first, is_failure=not step.ok)
    yield from map(Line, others)


def _hop_lines(hop: TracedHop) -> Iterator[str]:
    if hop.problem:
        yield f"  {hop.title:<14} not known: {plain(hop.problem)}"
        return
    count = "-" if hop.images is None else f"{hop.images:,}"
    yield f"  {hop.title:<14} {count:>6}  {second(hop.first):<24}  {second(hop.last)}".rstrip()
    if hop.by_rest:
        yield f"    {many(hop.by_rest, 'image', 'images')} by REST, since STOW-RS failed"
    if hop.retired:
        yield f"    removed by retention {second(hop.retired)}"


def _wrapped(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        plain(text),
        max(width, len(head) + 20),
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head]
