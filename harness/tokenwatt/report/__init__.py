"""One self-contained HTML page from measurements, fleet estimates and their sources."""
