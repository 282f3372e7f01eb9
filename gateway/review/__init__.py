"""What a person decides on: differences, merges and patches of staged changes.

lines    which lines differ between two sequences of lines
slide    where an ambiguous difference is drawn, so that people read it easily
hunks    a difference as hunks that can be taken or left
patch    one file's difference in the form that ``git apply`` takes
show     summaries and escaping for a terminal
merge    three-way merge over lines

All of these are pure functions over bytes: no files, no clock, no state.
"""
