"""The Emperor: one process that runs a directory of vassals, each in a process (mostly: a supervisor) of its own.

`command.run` is its life. It shares nothing with the vassals but their files, and they outlive it. Nothing is imported
here: every vassal needs some of these modules, and none all of them.
"""
