"""`python -m jsoftmax.bench`."""

from jsoftmax.bench.run import main

main()
