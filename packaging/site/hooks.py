"""What mkdocs asks while it builds the site: pages that the navigation does not name, and nothing that a reader's browser would fetch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig

_FETCHED = re.compile(
    r"<(?:script|link|img|iframe|source|video|object)\b[^>]*?\b(?:src|href|data)=[\"']?(?:https?:)?//[^>]*>"
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of docs/ that nobody named."""
    nav: list[Any] = config.nav or []
    named = set(_pages(nav))
    more = sorted(path.name for path in Path(config.docs_dir).glob("*.md") if path.name not in named)
    config.nav = [*nav, {"More": more}] if more else nav
    return config


def _pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for below in nav.values() if isinstance(nav, dict) else nav:
            yield from _pages(below)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Hold that the page is whole without the internet. Raises PluginError, which ends the build."""
    if found := _FETCHED.search(output):
        msg = f"{page.file.src_uri}: a browser would fetch {found.group()}"
        raise PluginError(msg)
    return output
