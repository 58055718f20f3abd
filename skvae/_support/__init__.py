"""What every room stands on: arithmetic, devices, processes, warnings, other libraries' private names.

It knows neither rows nor networks nor estimators.
"""
