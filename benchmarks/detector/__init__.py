"""The face detector as evidence: learning where its points lie on a head, and what it is worth."""
