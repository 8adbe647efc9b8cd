"""Beside the stages: what may go once it is verified downstream. Read rules, then examine, survey, remove, keeper, account."""
