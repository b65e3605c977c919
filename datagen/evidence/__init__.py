"""Makers of evidence: what pictures say of where points of a template are."""
