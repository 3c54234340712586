"""Rendered faces that say recorded and synthetic lines, for `isthmus demo speech`: nobody's face, and no real video."""
