"""Table: what the columns of a user's readings mean to a model, and what its outputs mean to the user.

declared  ->  fitting (to an artifact)  ->  calendar, windows  ->  the model's inputs, and times of its answers
"""

from .declared import Column, Cyclic, InputColumns, Table, Target, Time
from .fitting import fitted, otherwise

__all__ = ["Column", "Cyclic", "InputColumns", "Table", "Target", "Time", "fitted", "otherwise"]
