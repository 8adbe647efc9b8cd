"""What tells people and machines elsewhere: metrics, alerts, DICOM audit messages. Run by daemon/monitor.py, apart from custody."""
