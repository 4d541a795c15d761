"""The systems of Table 1, one file per system, each readable alone."""
