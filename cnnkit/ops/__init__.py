"""The public functions: docstring, check, geometry, implementation."""
