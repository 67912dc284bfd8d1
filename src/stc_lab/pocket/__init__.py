"""The pocket world (a procedural streaming-video world), its streams, and the models that were trained on it.

Pocket results rank methods on the pocket world and claim nothing about models of billions of parameters.
"""
