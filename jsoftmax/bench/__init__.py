"""Time, memory and accuracy, compared with other libraries: `python -m jsoftmax.bench`.

Imports the library as a user does; `plan` also imports the rule for block sizes.
"""
