"""Time, memory and accuracy beside other libraries: `python -m jsoftmax.bench`.

Imports the library as a user does; `plan` also asks for the rule of the block sizes.
"""
