"""The pocket world (a procedural streaming-video world), its models and their training recipe.

Pocket results rank methods on the pocket world and claim nothing about models of billions of parameters.
"""
