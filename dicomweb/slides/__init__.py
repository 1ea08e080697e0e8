"""Whole slides as values: what tiled instances say of themselves, and the pyramid that they make (PS3.3 C.8.12)."""
