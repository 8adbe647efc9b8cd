"""Tests of the portal: unit, dicom, tui, integration, appliance, faults; and the throw-away machine they use."""
