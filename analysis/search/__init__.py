"""Search for faces by text or by example, and for texts that describe a face."""
