"""`make bench`: the portal beside the plain pipeline, in one booted machine, in one run."""
