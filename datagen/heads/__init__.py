"""Head models: a template topology with semantics, and its parameters where it has them."""
