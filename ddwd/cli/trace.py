"""`ddwd trace STUDY`: show one study over all hops, why it is not complete, and what to do. Writes nothing."""

from argparse import Namespace
from dataclasses import asdict
from typing import TextIO

from ddwd.cli.command import Argument, Command, VerbResult, flag, watch, width
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.answers import Key
from ddwd.status import study_lookup
from ddwd.status.journal_events import refusals_of
from ddwd.status.report import collect, real_sources
from ddwd.status.trace import Trace, or_refused, trace
from ddwd.status.trace_text import lines
from ddwd.store.backends import custody_of
from ddwd.store.record_check import RecordChecker


def _run(args: Namespace, config: Config, out: TextIO) -> int:
    nodes = study_lookup.both(config)
    records = RecordChecker(custody_of(config), Paths(config))
    studies = or_refused(
        args.study,
        lambda name: study_lookup.studies_named(name, nodes, records, or_patient=True),
        refusals_of,
    )

    def look() -> VerbResult:
        problems = collect(config, real_sources()).problems
        traces = [trace(study, config, nodes, problems) for study in studies]
        is_complete = all(one.complete for one in traces)
        data = {"studies": [asdict(one) for one in traces]}
        text = "\n\n".join("\n".join(lines(one, width())) for one in traces)
        return VerbResult(data, text.splitlines(), 0 if is_complete else 1)

    return watch(look, 1.0 if args.watch else None, args, out, to_end=True)


COMMAND = Command(
    "trace",
    "show one study over all hops, and why it is not complete",
    _run,
    (
        Argument(
            "study", metavar="STUDY", help="StudyInstanceUID, accession number, Orthanc ID or PatientID"
        ),
        flag("--watch", "show it again until the study is complete"),
    ),
    about="""It asks both Orthancs, the extractor, the custody record, the disk, the quarantine, the
ledger, and the journal for images that ORTHANC1 refused (by StudyInstanceUID; the journal is for
root and group systemd-journal). It says where the images are, what happened to them and when, and what to do. No
patient ID is shown. STUDY is compared with the names exactly as the images have them (a
PatientID of "Smith/7", for example), or as the folders on disk have them ("Smith%2F7").""",
    answer=(Key("studies", list[Trace], "each study of that name"),),
    exits={
        0: "complete on disk: every image that the Orthancs hold, as recorded",
        1: "not complete, or not known; the verdict says why",
        66: "no such study on either Orthanc or on disk, and no image of it was refused",
        69: "an Orthanc that may have the study does not answer",
    },
)
