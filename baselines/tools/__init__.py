"""Wrappers of external packages that more than one method uses."""
