"""Models in the formats of other libraries: a file per target, checked against the model before it stays."""
