"""Rendered images, text and documents (PS3.18 8.3.5, 10.4.1.1.3): pixels, attributes and parameters in, bytes out."""
