"""Six softmax heads on handwritten digits: `python -m jsoftmax.demo`.

Imports the library as a user does.
"""
