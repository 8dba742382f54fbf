"""Self-contained HTML pages about results; they need no network to open."""
