"""The pictures of the dashboard in README.md and docs/, drawn by Textual from the fixed boards: `make pictures` writes them, a test compares them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ddwd.tui.app import Dashboard, Refreshed
from tests.tui import boards

if TYPE_CHECKING:
    from ddwd.status.dashboard import DashboardModel
    from ddwd.tui.feed import Feed

_SIZE = (100, 26)
PICTURES = {
    "top-flowing.svg": (boards.flowing, ()),
    "top-trouble.svg": (boards.in_trouble, ()),
    "top-trace.svg": (boards.in_trouble, ("enter",)),
}


async def draw(name: str) -> str:
    """The picture of that name, as SVG; in UTC."""
    make, keys = PICTURES[name]
    board: DashboardModel = make()
    app = Dashboard(lambda _deliver: cast("Feed", boards.StillFeed()), boards.MadeUpPortal())
    async with app.run_test(size=_SIZE) as pilot:
        app.post_message(Refreshed(board))
        await pilot.pause()
        await pilot.press(*keys)
        await app.workers.wait_for_complete()
        await pilot.pause()
        return app.export_screenshot(title="ddwd-top", simplify=True)


def main(folder: str) -> None:
    """Write all of them."""
    for name in PICTURES:
        Path(folder, name).write_text(asyncio.run(draw(name)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
