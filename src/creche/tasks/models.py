"""FastWorker's `tasks.models`, as far as its names mean the same here."""

from __future__ import annotations

from creche.model.priority import TaskPriority

__all__ = ["TaskPriority"]
