"""Adapters for frameworks, one file each, with the same name here, in `tests/contrib`, in `examples` and in the docs."""
