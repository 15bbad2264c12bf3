"""Searches choices and schedules, measures them, and keeps the records."""
