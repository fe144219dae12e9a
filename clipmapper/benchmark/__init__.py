"""Which explainer is right? One pipeline for every task.

A question, a caption, an image or a text takes the same way: `run` asks a task for a batch, `measure` explains it by all
methods from one recorded pass and scores the maps, `store` keeps the batch on disk, `summary` makes means with intervals of
all batches, and `table`, `plots` and `page` show them. `task` says what a task must bring; `tasks` has those there are.
"""
