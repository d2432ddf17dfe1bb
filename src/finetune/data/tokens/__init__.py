"""Token ids of every text, made once and cached."""
