"""The registration engine and the transport of scan points into canonical space."""
