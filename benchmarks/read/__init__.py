"""How fast the stream is, beside its peers and beside decompression alone."""
