"""Studies whose rule has `also` are brought to other destinations, each with a backlog of its own. Nothing else depends on it."""
