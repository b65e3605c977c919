"""The commands of ``datagen``, one module per group."""
