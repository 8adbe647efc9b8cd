"""The dashboard: every screen and key, by Textual's pilot, on fixed boards."""
