"""Tries to break the product: kills, damage, hostile inputs and other people's files, drawn from a seed."""
