"""canonface's data side: captures in, canonical training sets out."""

__version__ = "0.1.0"
