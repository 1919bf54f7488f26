"""Third-party networks, hand-written truth about them, and the command that compares."""
