"""Pixel data as values: what an instance says of them, code streams, transcoding (PS3.3 C.7.6.3, PS3.5 8 and A)."""
