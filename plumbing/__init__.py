"""What a trainer needs and no reader has to: files that survive, machines that differ, processes that must agree."""
