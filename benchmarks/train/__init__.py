"""Frames a second, memory and waiting for data of training steps."""
