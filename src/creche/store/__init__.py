"""Where jobs are kept: in memory, or in an SQLite file behind a process of its own."""
