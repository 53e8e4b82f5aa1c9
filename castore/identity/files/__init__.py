"""What files contain: read once a machine, found again by their stamps."""
