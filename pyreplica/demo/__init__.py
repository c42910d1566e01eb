"""The demo: a master and a slave on throw-away servers, and the daemon between them."""
