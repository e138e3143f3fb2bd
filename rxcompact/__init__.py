"""Event compaction on RxPY."""
