"""Captures that other programs calibrated, brought into the folder layout: one file and one entry each."""
