"""Built-in graders: reward functions with the Lambda contract, one a file, run in the sandbox like any other.

``reward.builtin = "math"`` names one, ``reward.options`` are its settings; grade_math.py says which it knows. Copy one
and change it to make your own.
"""
