"""`python -m jsoftmax.demo`."""

import sys

try:
    from jsoftmax.demo.cli import main

    main()
except KeyboardInterrupt:
    sys.exit(130)
