"""The live page: a peer like any other, in a process of its own, that shows a plane to browsers.

Only that process imports Quart and Hypercorn, so nothing here is imported by the package's face.
"""
