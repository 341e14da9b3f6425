"""`instar upgrade`: the supervisor becomes another version of itself, in the same process."""
