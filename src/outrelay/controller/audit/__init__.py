"""Audit: what happened to every stream, and for how long that is remembered."""
