"""Search for settings that are accurate and cheap (``hparams_search=pareto``), on top of Optuna.

A sweeper of its own, since ``hydra-optuna-sweeper`` 1.3 holds Optuna below 3 and SQLAlchemy below 2, loses a search
that is started again, and ends with the first failed trial.
"""
