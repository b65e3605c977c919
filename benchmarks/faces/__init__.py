"""What frame rows and the template group hold: parameters, spread and texture coordinates against the truth."""
