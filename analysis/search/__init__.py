"""Search for faces by text or by example, and for the words that fit a face."""
