"""The report of a run: one HTML file with its figures, curves, mask pictures and settings."""
