"""`python -m jsoftmax.bench`: --help and wrong options are answered without the extra `bench`."""

import sys

try:
    from jsoftmax.bench.cli import options

    options()
    from jsoftmax.bench.run import main

    main()
except KeyboardInterrupt:
    sys.exit(130)
