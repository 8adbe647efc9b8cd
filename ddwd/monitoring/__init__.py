"""Metrics, alerts and DICOM audit messages for other systems. Run by daemon/monitor.py; custody does not depend on it."""
