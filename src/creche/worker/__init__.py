"""The worker: takes attempts from the plane, runs them, and reports until the report is settled."""
