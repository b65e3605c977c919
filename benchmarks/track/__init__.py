"""The tracker benchmark on simulated people: its split, its readers of other programs' files, its exactness."""
