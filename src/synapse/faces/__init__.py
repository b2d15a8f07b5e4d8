"""THE WINDOWS: each face is an ordinary client and may be deleted without touching the rest."""
