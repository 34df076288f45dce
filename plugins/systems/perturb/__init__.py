"""Responses of single cells to perturbations: how the cells of a condition look that was never measured."""
