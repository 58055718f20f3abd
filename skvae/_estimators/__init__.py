"""The verbs of the estimators: a user's table in, a user's table out, parameters and fitted attributes between.

The only room that sees an estimator; what it does itself is to check, to ask the rooms below, and to give back.
"""
