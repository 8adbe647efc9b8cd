"""Three DICOM stacks that are not the portal's as senders, the corpus that they send, and an independent check of files."""
