"""What an explanation is, and how it is kept."""
