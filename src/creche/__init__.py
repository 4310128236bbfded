"""Creche: background jobs for Python applications, with nothing to install beside them."""
