"""A procedural world of small shapes that come, go, blink, move and change colour on cluttered ground."""
