"""Simulated captures as other programs and the public sets lay them out: the layouts' facts, none of their data."""
