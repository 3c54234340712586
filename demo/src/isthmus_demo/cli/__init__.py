"""The commands `isthmus demo` and `isthmus fetch`, registered as entry points."""
