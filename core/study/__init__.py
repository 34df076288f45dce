"""Studies: many trials over one directory that any number of runners share."""
