"""The console: pages on runs, in a browser."""
