"""The game: its step, its players, and all that keeps it going."""
