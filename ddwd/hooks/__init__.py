"""A finished study speaks: the hooks of rules, run beside the flow. Nothing else depends on them."""
