"""`python -m synapse` is the command line."""

import sys

from synapse.faces.cli.main import main

sys.exit(main())
