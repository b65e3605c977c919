"""The ground: errors, files, settings, progress (floor 1)."""
