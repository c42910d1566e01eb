"""The page for browsers, and what other programs read over HTTP: status.json, healthz, metrics.

Only `listener` is imported by the daemon; the rest when `http:` is in the configuration, so that
nobody else pays for it.
"""
