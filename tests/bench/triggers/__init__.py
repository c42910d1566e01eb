"""Capture triggers of several kinds side by side: in a loop, and at a session's first write."""
