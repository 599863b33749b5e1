"""What is measured: one program per library, each run in a process and environment of its own."""
