"""Table: what the columns of a user's readings mean to a model, and what its outputs mean to the user.

written  ->  parts, declared  ->  fitting (to an artifact)  ->  calendar, windows  ->  the model's inputs and its
answers' times
"""

from .declared import Table
from .fitting import fitted, otherwise
from .parts import Column, Cyclic, InputColumns, Target, Time

__all__ = ["Column", "Cyclic", "InputColumns", "Table", "Target", "Time", "fitted", "otherwise"]
