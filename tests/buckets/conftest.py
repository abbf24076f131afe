"""The emulator of buckets."""

from bucket_emulator import bucket, emulator, quick_locks, running

__all__ = ["bucket", "emulator", "quick_locks", "running"]
