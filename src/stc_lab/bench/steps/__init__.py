"""The way of a frame into the memory of each backbone, and of the memory into a prompt, pruned and unpruned."""
