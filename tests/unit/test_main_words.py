"""A word of the command line that is not known is one line, with what was probably meant."""

from __future__ import annotations

import pytest

from ddwd.cli.main import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["statsu"], "ddwd: argument VERB: 'statsu' is not known; did you mean: status; see ddwd --help\n"),
        (
            ["trcae", "1.2.3"],
            "ddwd: argument VERB: 'trcae' is not known; did you mean: trace; see ddwd --help\n",
        ),
        (
            ["quarantine", "relea"],
            "ddwd quarantine: argument ACTION: 'relea' is not known; did you mean: release; see ddwd quarantine --help\n",
        ),
    ],
)
def test_a_mistyped_word_names_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 64
    assert capsys.readouterr().err == said


def test_a_word_that_is_like_none_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["zzz"])
    assert "'zzz' is not known; it is one of: status, doctor, studies, trace, " in capsys.readouterr().err
