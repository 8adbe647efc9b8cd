"""Remove images that are verified further down the flow. Read rules, then eligibility, candidates, remove, scheduler, round_report."""
