"""The parameter head: from one picture the parameters of a head model, each with its uncertainty."""
