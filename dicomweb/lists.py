"""Comma-separated lists, as settings and parameters of requests spell them."""


def split_list(text: str) -> list[str]:
    """The items of a comma-separated list, without the white space around them; empty ones are left out."""
    return [item for item in map(str.strip, text.split(",")) if item]
