"""Images for people: stored values to display values to JPEG, PNG and GIF (PS3.18 8.3.5, PS3.3 C.11, PS3.4 N)."""
