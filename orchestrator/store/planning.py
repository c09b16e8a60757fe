"""What the planner may choose from, for statements that are planned at each call (those that keep a plan: prepared.py).

SET LOCALs, to be sent in front of the statement. JIT compiles at every call, which takes longer than most calls.
"""

# A range of ids whose bounds are found out only while it runs is taken for a two-hundredth of the table. So for a limit
# that seems larger than that, the planner would rather read all of the range and sort it, at every step of a walk.
ALONG_THE_IDS = (
    "SET LOCAL enable_seqscan=off;SET LOCAL enable_bitmapscan=off;SET LOCAL enable_sort=off;SET LOCAL jit=off;"
)

# Parallel workers would take three cores from the tasks, and all in all twice the time; and of tasks it doesn't know of
# yet the planner would sort millions to group a few types.
COUNTING = "SET LOCAL max_parallel_workers_per_gather=0;SET LOCAL enable_sort=off;SET LOCAL jit=off;"

# How many rows are claimed or running the statistics tell of when they were made. And a role that may not use nested
# loops, for the sake of its reports, would read all tasks to find a few by their ids.
BY_INDEX = (
    "SET LOCAL enable_seqscan=off;SET LOCAL enable_bitmapscan=off;SET LOCAL enable_nestloop=on;SET LOCAL jit=off;"
)
