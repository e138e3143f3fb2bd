"""Sources of events; each emits chunks of them, as an observable."""
