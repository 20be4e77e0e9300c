"""Softmax heads on letters, and verification on others: `python -m jsoftmax.demo`.

Imports the library as a user does.
"""
