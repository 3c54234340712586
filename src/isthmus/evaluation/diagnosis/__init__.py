"""What the task `diagnose` finds: numbers, and evaluation data that are not new."""
