<<<<<<< HEAD
"""Studies: grids of names, the trials that fill them, and what may be concluded."""
=======
"""Studies: which pieces help, compared over seeds."""
>>>>>>> pieces-stats
