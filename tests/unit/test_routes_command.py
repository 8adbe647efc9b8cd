"""`ddwd routes`: which rule takes a file and why, without a value of the patient in what it says; the examples of docs/routes.md are sound."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from ddwd.cli.main import parser
from ddwd.config.loader import load
from ddwd.config.schema import Config
from ddwd.core.errors import NotFoundError
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[2] / "docs/routes.md"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The rules of docs/routes.md."""
    (example,) = re.findall(
        r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    path = tmp_path / "ddwd.yaml"
    path.write_text(example, encoding="utf-8")
    return load(path, {"DDWD_DEFAULTS": str(tmp_path / "none")})


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """A made-up image with other tags."""

    def make(**tags: str) -> Path:
        path = made_up_ct(tmp_path / "ct", 1, size=16, patient_id="SECRET-7").paths[0]
        data_set = pydicom.dcmread(path)
        for keyword, value in tags.items():
            setattr(data_set, keyword, value)
        data_set.save_as(path)
        return path

    return make


def _run(config: Config, *words: str | Path) -> tuple[int, str]:
    args = parser().parse_args(["routes", *map(str, words)])
    out = io.StringIO()
    return args.run(args, config, out), out.getvalue()


def test_the_rule_that_takes_a_file_is_named_with_why_the_others_do_not(
    config: Config, file: Callable[..., Path]
) -> None:
    path = file(StationName="TEACH 2", StudyDescription="no matter")
    status, said = _run(config, "test", path)
    assert status == 0
    assert said.splitlines() == [
        f"{path}: matched by route teaching",
        "  not by trial: CallingAET does not match",
        "  not by reports: Modality does not match",
    ]


def test_the_sender_counts(config: Config, file: Callable[..., Path]) -> None:
    path = file(StudyDescription="A TRIAL of it")
    assert "matched by route rest" in _run(config, "test", path)[1]
    assert "matched by route trial" in _run(config, "test", "--aet", "mr7", path)[1]


def test_a_file_that_no_rule_takes_would_be_held(config: Config, file: Callable[..., Path]) -> None:
    path = file()
    few = type(config)(routes=config.routes[:-1])
    status, said = _run(few, "test", path)
    assert (status, said.splitlines()[0]) == (
        1,
        f"{path}: no route matches: its study would be held on ORTHANC1",
    )
    status, said = _run(few, "test", "--json", path)
    not_by = {"trial": "CallingAET", "reports": "Modality", "teaching": "StationName"}
    assert (status, json.loads(said)["files"]) == (1, [{"file": str(path), "route": None, "not": not_by}])


def test_nothing_of_the_patient_is_shown(config: Config, file: Callable[..., Path]) -> None:
    for words in (("test",), ("test", "--json")):
        assert "SECRET" not in _run(config, *words, file(StationName="SECRET"))[1]


def test_without_rules_everything_is_taken(file: Callable[..., Path]) -> None:
    path = file()
    assert _run(Config(), "test", path) == (
        0,
        f"{path}: there are no routes: it is forwarded and extracted\n",
    )
    assert _run(Config(), "list") == (0, "there are no routes: every study is forwarded and extracted\n")


def test_the_list_tells_what_each_rule_does(config: Config) -> None:
    status, said = _run(config, "list")
    assert status == 0
    assert said.splitlines() == [
        "1  trial: CallingAET is CT1 or MR*; StudyDescription is *trial*",
        (
            "   forwarded, extracted to trial/{PatientID}/{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}, "
            "high priority, marked study.done"
        ),
        "2  reports: Modality is SR or KO or PR",
        "   forwarded",
        "3  teaching: StationName is TEACH*",
        "   stays on ORTHANC1, sent to teaching",
        "4  rest: everything",
        "   forwarded, extracted",
    ]
    listed = json.loads(_run(config, "list", "--json")[1])["routes"]
    assert [row["name"] for row in listed] == ["trial", "reports", "teaching", "rest"]


@pytest.mark.parametrize(("text", "said"), [(b"no image", "is not a DICOM file"), (None, "cannot be read")])
def test_what_is_no_image_is_named(config: Config, tmp_path: Path, text: bytes | None, said: str) -> None:
    path = tmp_path / "x"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(NotFoundError, match=said):
        _run(config, "test", path)
