"""What people are shown, as frozen values: `report` for the whole portal, `units` for systemd; and which study a name means. Read only."""
