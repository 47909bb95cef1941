"""The controller's own process, for who may touch every tenant."""
