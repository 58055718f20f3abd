"""The one training loop: what feeds it, the steps it takes, the optimiser.

It makes a module better at its loss and knows neither scores nor units nor estimators.

From outside
    ``training``: trains a module, by the loop of ``loop`` or, where rows are few and wide, by ``span`` in coordinates
    of their span; ``rows``: the records that go in and come out.

A step
    ``feeder``: batches and their noise; ``engine``: what takes the steps of a module; ``steps``: the ways to take one,
    best first; ``native``: that of `native.c`; ``optimiser``: Adam and the course of its rate; ``clock``: limited time.
"""
