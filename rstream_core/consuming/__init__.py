"""One subscription to one stream: chunks, credits, offsets, gaps, and the turns of a single active consumer."""
