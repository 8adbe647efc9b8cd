"""What all tests share: the examples of Hypothesis are the same in each run (tests/depth.py)."""

from __future__ import annotations

from hypothesis import settings

from tests.depth import examples

settings.register_profile("ddwd", examples(40, 400))
settings.load_profile("ddwd")
