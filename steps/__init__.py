"""The step programs of Reelscan and what they share. Knows nothing of Kubernetes."""

import os

# NumPy's BLAS starts a thread per core on import; no step multiplies matrices, and a step must start in half a second.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
