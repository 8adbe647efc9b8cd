"""Every relative link and anchor of README.md, CONTRIBUTING.md, CHANGELOG.md and docs/ leads somewhere in the clone as it is, with nothing built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.readme import DOCS, REPO

PAGES = [*sorted(REPO.glob("*.md")), *sorted(DOCS.glob("*.md"))]
BUILT = ("build", "dist")
"""Folders that a fresh clone does not have."""

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`[^`\n]+`")
_LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)|<(?:a|img)\b[^>]*?\b(?:href|src)=\"([^\"]+)\"",
    re.MULTILINE,
)
_HEADING = re.compile(r"^#{1,6} +(.*?)(?: +#+)?$", re.MULTILINE)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def links(text: str) -> list[str]:
    """Targets of the links and pictures of a page, in order: what stands in code is none."""
    prose = _SPAN.sub("", _FENCED.sub("", text))
    return [next(filter(None, found)) for found in _LINK.findall(prose)]


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings as GitHub makes them: a heading that comes again gets a number."""
    seen: dict[str, int] = {}
    found = set[str]()
    for heading in _HEADING.findall(_FENCED.sub("", text)):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    return found


def dead(page: Path) -> list[str]:
    """Links of a page that lead nowhere in the clone, without those to other hosts."""
    text = page.read_text(encoding="utf-8")
    return [link for link in links(text) if not _ELSEWHERE.match(link) and not _leads_somewhere(page, link)]


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.is_relative_to(REPO) or not target.exists():
        return False
    if target != REPO and target.relative_to(REPO).parts[0] in BUILT:
        return False
    return not anchor or (target.suffix == ".md" and anchor in anchors(target.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_of_a_page_is_dead_in_a_clone_where_nothing_was_built(page: Path) -> None:
    assert dead(page) == []


def test_a_dead_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.test_links_of_pages.REPO", tmp_path)
    (tmp_path / "build").mkdir()
    for name in ("other.md", "build/other.md"):
        (tmp_path / name).write_text("# The other\n\n## `code`, and [more](x.md)\n\n## Twice\n\n## Twice\n")
    page = tmp_path / "page.md"
    good = ["other.md", "#here-it-is", "other.md#code-and-more", "other.md#twice-1", "https://example.org/x"]
    bad = [
        "gone.md",
        "#nowhere",
        "other.md#twice-2",
        "build/other.md",
        "../../etc/passwd",
        "reference/gone.md",
    ]
    shown = " ".join(f"[text]({link})" for link in [*good, *bad])
    page.write_text(
        f"# Here it is\n\n{shown}\n`[code](no.md)`\n\n```text\n# No heading\n[block](no.md)\n```\n![p](no.svg)\n"
    )
    assert dead(page) == [*bad, "no.svg"]
