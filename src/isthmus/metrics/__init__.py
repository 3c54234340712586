"""Measures: arrays in, numbers out. Retrieval, zero-shot classification, probes, calibration; their intervals."""
