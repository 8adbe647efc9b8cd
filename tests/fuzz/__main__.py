"""`python -m tests.fuzz TARGET SECONDS`: play the corpus, then look for what breaks the target, for so long. Run by `make fuzz`.

What breaks it is left in build/fuzz/ and the exit status is not 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

REPO = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"


def main(target: str, seconds: int) -> None:
    """Does not return: libFuzzer ends the process."""
    with atheris.instrument_imports(include=["ddwd", "pynetdicom"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - what is imported here is instrumented
    found = REPO / "build" / "fuzz"
    grown = found / target
    grown.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={found}/{target}-",
        "-max_len=65536",
        "-rss_limit_mb=4096",
    ]
    atheris.Setup([sys.argv[0], *options, str(grown), str(CORPUS / target)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
