"""`make fuzz`: what strangers and broken disks can put before the portal's own parsers, by coverage-guided fuzzing (atheris)."""
