"""The predict loop: streams through sessions, one record per question, resumable."""
