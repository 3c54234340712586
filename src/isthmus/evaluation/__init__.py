"""Evaluation: the tasks of `isthmus eval`, and the public data sets they read."""
