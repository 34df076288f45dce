"""The spatial system: expression and coordinates of cells, diffused together."""

from plugins.systems.spatial.system import Spatial

__all__ = ["Spatial"]
