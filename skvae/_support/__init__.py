"""What every folder builds on: arithmetic, devices, processes, warnings, other libraries' private names.

It knows neither rows nor networks nor estimators.

Arithmetic
    ``numerics``: products that round alike, masks, logarithms; ``spectrum``: axes of second moments.

Where it runs
    ``device``: devices, threads, seeds; ``jobs``: threads of one call; ``team``: several processes; ``interrupts``:
    Ctrl-C.

Other libraries
    ``compat``: scikit-learn's private names; ``warnings``: Python's; ``drawing``: matplotlib's axes; ``graph``: ONNX.
"""
