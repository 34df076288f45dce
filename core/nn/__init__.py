"""What modules of several kinds share."""
