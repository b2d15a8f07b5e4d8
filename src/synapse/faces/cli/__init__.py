"""The command line: a static table of verbs, a small parser of its own, one module for each family of verbs.

Rule: data on stdout, words on stderr. What every call imports is standard library only and small (DESIGN.md, The fast
path); everything else is imported by the verb that needs it.
"""
