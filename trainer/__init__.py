"""canonface's model side: stream shards, fit, evaluate and run the joint model."""

__version__ = "0.1.0"
