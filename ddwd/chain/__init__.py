"""The chain: an append-only Merkle log of what happened to studies, with signed heads, that cannot be rewritten unseen."""
