"""Where the 68 landmarks lie on every head, found from real faces."""
