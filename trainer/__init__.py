"""canonface's model side: stream shards, fit, evaluate and run the joint depth and canonical-coordinate model."""

__version__ = "0.1.0"
