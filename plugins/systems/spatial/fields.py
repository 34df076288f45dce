"""What is known of a cell and modelled by the spatial system."""

MODALITIES = ("expression", "position")
