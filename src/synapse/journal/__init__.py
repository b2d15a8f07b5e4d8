"""THE MEMORY: the only room that imports sqlite3. It appends rows, proves them, and folds them back into state."""
