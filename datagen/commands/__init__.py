"""The commands of ``datagen``, one module per group (floor 6)."""
