"""What may be wrong with a joint space, and with the data it is judged on, in one task."""

from isthmus.evaluation.diagnosis.run import diagnose

__all__ = ["diagnose"]
