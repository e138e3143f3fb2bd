"""One reader for JSON in files, request bodies and messages."""
