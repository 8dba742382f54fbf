"""Self-contained HTML pages about what was made; they need no network to open."""
