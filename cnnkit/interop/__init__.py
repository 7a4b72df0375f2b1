"""Bridges to other libraries' own machinery; each is imported by name, and imports its library."""
