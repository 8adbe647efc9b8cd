"""What status, dashboard, trace and doctor show, as frozen values. Read only."""
