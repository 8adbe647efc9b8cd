"""The built .deb in a booted Debian 13 machine: systemd, Orthanc and PostgreSQL for real, DCMTK as the modality."""
