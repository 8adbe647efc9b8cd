"""Storage commitment (PS3.4 annex J): what a modality asks is answered by what is really kept, and not by an index."""
