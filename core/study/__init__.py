"""Studies: grids of names, the trials that fill them, and what may be concluded."""
