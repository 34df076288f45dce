"""Studies: which pieces help, compared over seeds."""
