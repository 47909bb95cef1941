"""Audit: what happened to every stream, on its way to the controller."""
