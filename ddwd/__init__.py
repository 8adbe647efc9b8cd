"""D-DW-D Portal: DIMSE in, DICOMweb across, DIMSE back, files on disk, with custody of every image.

Read the package in the order the data moves:
watch -> forward -> retrieve -> (store_scp) -> verify -> publish -> ledger -> view -> cli | tui.
"""

__version__ = "0.2.0"
