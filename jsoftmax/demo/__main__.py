"""`python -m jsoftmax.demo`."""

from jsoftmax.demo.train import main

main()
