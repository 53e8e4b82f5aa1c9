"""castore behind the names users already call; one module a system."""
