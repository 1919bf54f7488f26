"""``python -m weightscope`` is the command ``weightscope``."""

import sys

from weightscope.cli import main

sys.exit(main())
