"""What merging, filters, forwarding, mapping and transforms cost."""
