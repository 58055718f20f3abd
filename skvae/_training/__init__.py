"""The one training loop: what feeds it, the steps it takes, the optimiser.

It makes a module better at its loss and knows neither scores nor units nor estimators.
"""
