"""init"""

from .plane import ControlPlane

__all__ = ["ControlPlane"]
