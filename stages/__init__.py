"""The pipeline's stages: each is a program, `python -m stages.<name>`."""

import gc
import sys

if sys.argv[0] == "-m":  # one is being started
    # looking for garbage among what is imported, of which none is, would take a third of that time
    gc.disable()  # until gta.errors.run
