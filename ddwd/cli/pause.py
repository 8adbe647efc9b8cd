"""`ddwd pause` and `ddwd resume`: ask the extractor to stop retrieving from storage, and to go on. Writes a request; the extractor acts on it."""

from argparse import Namespace

from ddwd.cli.command import Command, VerbResult, prints
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.answers import Key
from ddwd.store.operator_requests import Kind, Request, Requests


def _command(kind: Kind, help_text: str, answer: str) -> Command:
    def ask(_args: Namespace, config: Config) -> VerbResult:
        Requests(Paths(config).requests).submit(Request(kind))
        return VerbResult({"asked": kind}, [answer])

    return Command(
        kind,
        help_text,
        prints(ask),
        about="""During a pause images are still received and forwarded. They wait on ORTHANC2: none is lost, and
a restart does not end the pause. `ddwd status` and the dashboard show it.""",
        exits={
            0: "the extractor is asked; if it is stopped, it acts on the request when it starts",
            65: "only root and group ddwd may ask",
            74: "no room on the disk",
        },
        answer=(Key("asked", str, "what the extractor is asked for"),),
    )


PAUSE = _command(
    "pause",
    "stop retrieving studies to the disk",
    "the extractor is asked to pause: no study is retrieved until: ddwd resume",
)
RESUME = _command("resume", "go on retrieving", "the extractor is asked to go on; see: ddwd status")
