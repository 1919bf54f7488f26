"""What to cut: ranking -> proposals -> smaller module."""
