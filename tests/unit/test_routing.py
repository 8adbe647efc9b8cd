"""`routes` and `destinations` of ddwd.yaml: what may stand there, and which rule takes what. Lua answers the same cases in tests/integration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ddwd.config.loader import load
from ddwd.config.routing import OWN, Destination, Judged, Route, TagCondition, choose, judge, table
from ddwd.config.schema import Config
from ddwd.core.errors import ConfigError

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "routes.json").read_text(encoding="utf-8")
)
EVERY_KEY = """
routes:
  - name: research
    when: {CallingAET: [CT1, MR*], StudyDescription: "*trial*"}
    also: [teaching, pacs]
    layout: research/{PatientID}/{StudyDate}_{StudyInstanceUID}/{SeriesNumber}/{SOPInstanceUID}
    priority: high
  - name: pass
    when: {Modality: SR}
    also: pacs
    extract: false
    forward: false
  - name: rest
destinations:
  - {name: teaching, url: "https://teaching.example/dicom-web/", user: u, password: p, ca: /etc/ca.pem}
  - {name: pacs, aet: PACS, host: 10.1.2.9, port: 11112, tls: true}
"""


def _config(folder: Path, text: str) -> Config:
    path = folder / "ddwd.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, {"DDWD_DEFAULTS": str(folder / "none")})


def test_every_key_is_read(tmp_path: Path) -> None:
    config = _config(tmp_path, EVERY_KEY)
    assert config.routes == (
        Route(
            "research",
            (TagCondition("CallingAET", ("CT1", "MR*")), TagCondition("StudyDescription", ("*trial*",))),
            also=("teaching", "pacs"),
            layout="research/{PatientID}/{StudyDate}_{StudyInstanceUID}/{SeriesNumber}/{SOPInstanceUID}",
            priority="high",
        ),
        Route("pass", (TagCondition("Modality", ("SR",)),), forward=False, also=("pacs",), extract=False),
        Route("rest"),
    )
    assert config.destinations == (
        Destination("teaching", "https://teaching.example/dicom-web/", "u", "p", Path("/etc/ca.pem")),
        Destination("pacs", aet="PACS", host="10.1.2.9", port=11112, tls=True),
    )
    assert "p'" not in repr(config.destinations[0])


@pytest.mark.parametrize("text", ["routes:", "routes: []", "destinations: []", "# none"])
def test_without_rules_there_are_none(tmp_path: Path, text: str) -> None:
    config = _config(tmp_path, text)
    assert (config.routes, config.destinations) == ((), ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("routes: {a: b}", "ddwd.yaml:1: routes: is not a list"),
        ("routes:\n  - CT1\n", "ddwd.yaml:2: routes: has an entry without keys"),
        ("routes:\n  - priority: high\n", "ddwd.yaml:2: routes: has an entry without a name"),
        ("routes:\n  - name: a\n  - name: a\n", "ddwd.yaml:3: routes.name: 'a' is used twice"),
        ("routes:\n  - name: a b\n", "ddwd.yaml:2: routes.name: 'a b' is not a name"),
        ("routes:\n  - name: a\n    prio: high\n", "ddwd.yaml:3: routes.prio: is not a known key; write priority"),
        ("routes:\n  - name: a\n    when: {Modalty: CT}\n", "routes.when.Modalty: is not a main DICOM tag; write Modality"),
        ("routes:\n  - name: a\n    when: CT\n", "ddwd.yaml:3: routes: has an entry without keys"),
        ("routes:\n  - name: a\n    priority: urgent\n", "'urgent' is not known; write low or normal or high"),
        ("routes:\n  - name: a\n    forward: false\n", "what is not forwarded cannot be extracted"),
        ("routes:\n  - name: a\n    also: [b]\n", "'b' in also of a is no destination; name it in destinations"),
        ("routes:\n  - name: a\n    layout: '{PatientName}/{StudyInstanceUID}/{SOPInstanceUID}'\n", "{PatientName} is not for a layout"),
        ("routes:\n  - name: a\n    layout: '{PatientID}/{SOPInstanceUID}'\n", "two images could have one name"),
        ("routes:\n  - name: a\n    layout: '{PatientID}/{StudyInstanceUID}/{InstanceNumber}'\n", "{InstanceNumber} is not for a layout"),
        ("routes:\n  - name: a\n    layout: '{Modality}/{PatientID}/{StudyInstanceUID}/{SOPInstanceUID}'\n", "{Modality} differs within a study"),
        ("routes:\n  - name: a\n    layout: 'x/{StudyInstanceUID}/{SOPInstanceUID}'\n", "two patients could share a folder"),
        ("routes:\n  - name: a\n    layout: '{PatientID}/{StudyID}{StudyInstanceUID}/{SOPInstanceUID}'\n", "two values would run into each other"),
        ("routes:\n  - name: a\n    layout: '{PatientID}/7{StudyInstanceUID}/{SOPInstanceUID}'\n", "two values would run into each other"),
        ("routes:\n  - name: a\n    layout: '../{StudyInstanceUID}/{SOPInstanceUID}'\n", "is not a layout"),
        ("routes:\n  - name: a\n    layout: '/srv/{StudyInstanceUID}/{SOPInstanceUID}'\n", "is not a layout"),
        ("routes:\n  - name: a\n    layout: '.ddwd/{StudyInstanceUID}/{SOPInstanceUID}'\n", "is not a layout"),
        ("destinations:\n  - name: a\n", "ddwd.yaml:2: destinations: is neither DICOMweb nor DIMSE"),
        ("destinations:\n  - {name: a, aet: PACS}\n", "is neither DICOMweb nor DIMSE"),
        ("destinations:\n  - {name: a, url: pacs}\n", "destinations.url: it is not a URL"),
        ("destinations:\n  - {name: a, url: 'https://u:p@h/'}\n", "destinations.url: has a login or a query in it"),
        ("destinations:\n  - {name: a, url: 'https://h/', password: p}\n", "destinations.password: has no user"),
        ("destinations:\n  - {name: a, url: 'https://h/', tls: true}\n", "destinations.tls: is not for DICOMweb"),
        ("destinations:\n  - {name: a, url: 'http://h/', ca: /ca.pem}\n", "destinations.ca: is for what is encrypted"),
        ("destinations:\n  - {name: a, aet: A, host: h, user: u}\n", "destinations.user: is not for DIMSE"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _config(tmp_path, text)
    assert said in str(caught.value)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["why"])
def test_a_rule_takes(case: dict[str, Any]) -> None:
    when = tuple(TagCondition(tag, tuple(texts)) for tag, texts in case["when"])
    rules = json.loads(json.dumps(table([Route("it", when)])))
    assert (choose(rules, case["tags"]) == "it") is case["takes"]


def test_the_first_that_matches_takes_it_and_the_others_say_why_not() -> None:
    routes = [
        Route("ct", (TagCondition("Modality", ("CT",)),)),
        Route("mr", (TagCondition("Modality", ("MR",)), TagCondition("StationName", ("A",)))),
        Route("rest"),
        Route("never"),
    ]
    said = judge(table(routes), {"Modality": "MR", "StationName": "B"})
    assert said == [
        Judged(OWN.name, "PatientID"),
        Judged("ct", "Modality"),
        Judged("mr", "StationName"),
        Judged("rest", None),
    ]


def test_what_no_rule_takes_is_nobodys() -> None:
    assert choose(table([Route("ct", (TagCondition("Modality", ("CT",)),))]), {"Modality": "MR"}) is None


def test_the_self_test_goes_all_the_way_whatever_the_rules_are() -> None:
    nothing = [Route("none", forward=False, extract=False)]
    own = {"PatientID": "DDWD-SELFTEST", "CallingAET": "DDWD_SELFTEST"}
    assert choose(table(nothing), own) == OWN.name
    assert choose(table(nothing), own | {"CallingAET": "CT1"}) == "none"
    assert (OWN.forward, OWN.extract) == (True, True)
    assert table([]) == []


def test_no_pattern_makes_a_long_value_slow() -> None:
    rules = table([Route("it", (TagCondition("StudyDescription", ("*a" * 20 + "*x",)),))])
    assert choose(rules, {"StudyDescription": "a" * 2000}) is None
    assert choose(rules, {"StudyDescription": "a" * 2000 + "x"}) == "it"
