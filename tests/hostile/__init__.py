"""Hostile traffic for any C-STORE SCP: the attacks of docs/security.md, run against ours and against the gateway."""
