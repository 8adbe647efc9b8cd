"""Storage commitment (PS3.4 annex J): answer requests of modalities by proof of the stored files, not by an index."""
