"""Time, memory and accuracy, compared with other libraries: `python -m jsoftmax.bench`.

Imports the library as a user does; `plan` and `tune` also import the rule for block sizes.
"""
