"""The plane: it takes jobs, keeps them, and hands them to workers. It sees names and bytes only."""
