"""Test media: clips made on the fly whose pictures carry their frame's number, and the truth about them."""
